"""The KubeRay manifests: fields, types, and numbers that must agree with each other and with the image."""

from __future__ import annotations

import copy
import shlex
from typing import Any

import pytest
from pydantic import ValidationError

from tests.unit.infra.files import INFRA, parse_command, pinned, quantity, read_yaml
from tests.unit.infra.kuberay_model import KINDS, RayCluster, RayClusterSpec, RayJob, Strict

MANIFESTS = sorted((INFRA / "kuberay").glob("*.yaml"))


def parse(document: dict[str, Any]) -> Strict:
    return KINDS[document["kind"]].model_validate(document)


DOCUMENTS = [parse(document) for path in MANIFESTS for document in read_yaml(path)]
CLUSTER = next(document for document in DOCUMENTS if isinstance(document, RayCluster))
JOBS = [document for document in DOCUMENTS if isinstance(document, RayJob)]
CLUSTERS: list[RayClusterSpec] = [CLUSTER.spec] + [job.spec.rayClusterSpec for job in JOBS if job.spec.rayClusterSpec]
CONTAINERS = [group.template.spec.containers[0] for cluster in CLUSTERS for group in cluster.groups]


def test_there_is_a_cluster_and_jobs_of_both_forms():
    assert len(CLUSTERS) == 2
    assert [job.spec.clusterSelector is None for job in JOBS].count(False) >= 2


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.spec.entrypoint[:30])
def test_a_job_has_its_own_cluster_or_selects_the_one_that_exists(job: RayJob):
    assert (job.spec.clusterSelector is None) != (job.spec.rayClusterSpec is None)
    if job.spec.clusterSelector is None:
        assert job.spec.shutdownAfterJobFinishes, "a job's own cluster must end with the job"
    else:
        assert job.spec.clusterSelector == {"ray.io/cluster": CLUSTER.metadata.name}
        assert job.spec.backoffLimit == 0, "KubeRay repeats only jobs that have their own cluster"
        assert not job.spec.shutdownAfterJobFinishes
    assert (job.metadata.generateName is None) != (job.metadata.name is None)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.spec.entrypoint[:30])
def test_entrypoints_are_commands_that_exist(job: RayJob):
    context = parse_command(shlex.split(job.spec.entrypoint))
    values = context.params
    assert values["num_workers"] > 0, "without a number, the workers are counted before the cluster has grown"
    assert {values[key].split("/")[0] for key in ("source", "output", "shards") if values.get(key)} == {"s3:"}


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.spec.entrypoint[:30])
def test_the_workers_a_job_asks_for_fit_into_the_largest_cluster(job: RayJob):
    values = parse_command(shlex.split(job.spec.entrypoint)).params
    cluster = job.spec.rayClusterSpec or CLUSTER.spec
    kind = "num-gpus" if values.get("device") == "cuda" else "num-cpus"
    groups = [
        group
        for group in cluster.workerGroupSpecs
        if int(group.rayStartParams.get("num-gpus", 0)) == (kind == "num-gpus")
    ]
    room = sum(group.maxReplicas * int(group.rayStartParams[kind]) for group in groups)
    assert values["num_workers"] * values.get("concurrency", 1) <= room


def test_clusters_require_a_token():
    assert {cluster.authOptions.mode for cluster in CLUSTERS} == {"token"}


def test_ray_is_the_version_of_the_image():
    assert {cluster.rayVersion for cluster in CLUSTERS} == {pinned("ray")}


@pytest.mark.parametrize("cluster", CLUSTERS, ids=["cluster", "oneshot"])
def test_the_head_computes_nothing_and_every_group_can_shrink_and_grow(cluster: RayClusterSpec):
    assert cluster.headGroupSpec.rayStartParams["num-cpus"] == "0"
    for group in cluster.workerGroupSpecs:
        assert group.minReplicas <= group.replicas <= group.maxReplicas
        if not cluster.enableInTreeAutoscaling:
            assert group.replicas > 0, "nothing would ever start a worker"
    if cluster.enableInTreeAutoscaling:
        assert cluster.autoscalerOptions is not None


def test_the_cluster_scales_cpu_and_gpu_workers_from_zero():
    assert CLUSTER.spec.enableInTreeAutoscaling
    groups = {group.groupName: group for group in CLUSTER.spec.workerGroupSpecs}
    assert groups.keys() == {"cpu", "gpu"}
    assert all(group.minReplicas == 0 for group in groups.values())
    container = groups["gpu"].template.spec.containers[0]
    assert container.resources.limits["nvidia.com/gpu"] == groups["gpu"].rayStartParams["num-gpus"]
    assert container.image.endswith(":cuda")
    assert groups["cpu"].template.spec.containers[0].image.endswith(":cpu")


@pytest.mark.parametrize("cluster", CLUSTERS, ids=["cluster", "oneshot"])
def test_shared_memory_holds_the_object_store_and_is_counted_in_the_limit(cluster: RayClusterSpec):
    for group in cluster.groups:
        pod = group.template.spec
        container = pod.containers[0]
        volumes = {volume.name: volume.emptyDir for volume in pod.volumes}
        assert {mount.name for mount in container.volumeMounts} == volumes.keys()
        shared = next(mount.name for mount in container.volumeMounts if mount.mountPath == "/dev/shm")
        assert volumes[shared].medium == "Memory"
        size = quantity(volumes[shared].sizeLimit)
        assert size >= int(group.rayStartParams["object-store-memory"])
        assert quantity(container.resources.limits["memory"]) >= 2 * size
        assert container.resources.limits["memory"] == container.resources.requests["memory"]
        cpus = int(group.rayStartParams["num-cpus"])
        assert cpus in (0, quantity(container.resources.limits["cpu"]))


def test_every_container_gets_the_settings_and_the_secret():
    (settings,) = (document for document in DOCUMENTS if document not in (CLUSTER, *JOBS))
    assert settings.data.keys() >= {"MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"}
    assert not any("SECRET" in key or "ACCESS_KEY" in key for key in settings.data), "keys belong in the secret"
    for container in CONTAINERS:
        references = [source.configMapRef or source.secretRef for source in container.envFrom]
        assert [reference.name for reference in references] == [settings.metadata.name, "stgcma-s3"]


def test_the_pods_run_as_the_user_of_the_image():
    dockerfile = (INFRA / "Dockerfile").read_text()
    for cluster in CLUSTERS:
        for group in cluster.groups:
            security = group.template.spec.securityContext
            assert f"USER {security.runAsUser}:{security.runAsGroup}" in dockerfile


def container_of(spec: dict[str, Any]) -> dict[str, Any]:
    return spec["headGroupSpec"]["template"]["spec"]["containers"][0]


MUTATIONS = {
    "unknown key": (lambda spec: spec["headGroupSpec"].update(replica=1), "replica"),
    "number for a start parameter": (
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        "num-cpus",
    ),
    "text for a count": (lambda spec: spec["workerGroupSpecs"][0].update(maxReplicas="8"), "maxReplicas"),
    "count left out": (lambda spec: spec["workerGroupSpecs"][0].pop("minReplicas"), "minReplicas"),
    "number for a quantity": (
        lambda spec: container_of(spec)["resources"]["limits"].update(cpu=2),
        "cpu",
    ),
    "port as text": (
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"][0].update(
            containerPort="6379"
        ),
        "containerPort",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_damaged_manifest_is_refused(name: str):
    """The model finds errors in valid YAML that the API server would refuse."""
    mutate, place = MUTATIONS[name]
    document = copy.deepcopy(
        next(d for d in read_yaml(INFRA / "kuberay" / "cluster.yaml") if d["kind"] == "RayCluster")
    )
    mutate(document["spec"])
    with pytest.raises(ValidationError, match=place):
        parse(document)
