"""The KubeRay and Kubernetes fields that our manifests use, with the types of ``ray.io/v1`` and ``core/v1``.

All other keys are errors, even if Kubernetes knows them. Add a field when a manifest needs it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
GenerateName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][-a-z0-9]*-$", max_length=40)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|Ki|Mi|Gi|Ti)?$")]
Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Metadata(Strict):
    name: Name | None = None
    generateName: GenerateName | None = None


class ConfigMap(Strict):
    apiVersion: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: Metadata
    data: dict[str, str]


class Reference(Strict):
    name: Name


class EnvironmentSource(Strict):
    configMapRef: Reference | None = None
    secretRef: Reference | None = None


class Port(Strict):
    containerPort: Annotated[int, Field(ge=1, le=65535)]
    name: Name


class Capabilities(Strict):
    drop: list[str]


class ContainerSecurity(Strict):
    allowPrivilegeEscalation: Literal[False]
    capabilities: Capabilities


class Resources(Strict):
    requests: dict[str, Quantity]
    limits: dict[str, Quantity]


class Mount(Strict):
    name: Name
    mountPath: Annotated[str, StringConstraints(pattern=r"^/")]


class Container(Strict):
    name: Name
    image: Annotated[str, StringConstraints(pattern=r"^[\w./-]+:\w[\w.-]*$")]
    ports: list[Port] = []
    envFrom: list[EnvironmentSource]
    securityContext: ContainerSecurity
    resources: Resources
    volumeMounts: list[Mount]


class EmptyDir(Strict):
    medium: Literal["Memory"] | None = None
    sizeLimit: Quantity


class Volume(Strict):
    name: Name
    emptyDir: EmptyDir


class Seccomp(Strict):
    type: Literal["RuntimeDefault"]


class PodSecurity(Strict):
    runAsNonRoot: Literal[True]
    runAsUser: Annotated[int, Field(ge=1)]
    runAsGroup: Annotated[int, Field(ge=1)]
    fsGroup: Annotated[int, Field(ge=1)]
    seccompProfile: Seccomp


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class PodSpec(Strict):
    restartPolicy: Literal["Never"]
    securityContext: PodSecurity
    tolerations: list[Toleration] = []
    containers: Annotated[list[Container], Field(min_length=1, max_length=1)]
    volumes: list[Volume]


class PodTemplate(Strict):
    spec: PodSpec


class HeadGroup(Strict):
    rayStartParams: dict[str, str]
    template: PodTemplate


class WorkerGroup(Strict):
    groupName: Name
    replicas: Count
    minReplicas: Count
    maxReplicas: Count
    rayStartParams: dict[str, str]
    template: PodTemplate


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"]
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]
    idleTimeoutSeconds: Count
    resources: Resources


class AuthOptions(Strict):
    mode: Literal["token", "disabled"]


class RayClusterSpec(Strict):
    rayVersion: str
    authOptions: AuthOptions
    enableInTreeAutoscaling: bool = False
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]

    @property
    def groups(self) -> list[HeadGroup | WorkerGroup]:
        return [self.headGroupSpec, *self.workerGroupSpecs]


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJobSpec(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    activeDeadlineSeconds: Annotated[int, Field(ge=1)]
    clusterSelector: dict[str, str] | None = None
    shutdownAfterJobFinishes: bool = False
    ttlSecondsAfterFinished: Count = 0
    backoffLimit: Count = 0
    rayClusterSpec: RayClusterSpec | None = None


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec


KINDS: dict[str, type[Strict]] = {"ConfigMap": ConfigMap, "RayCluster": RayCluster, "RayJob": RayJob}
