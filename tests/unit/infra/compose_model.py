"""Reads ``infra/compose.yaml`` as Compose does, with strict types for the fields that the file uses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from tests.unit.infra.files import INFRA, read_yaml

_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<kind>:-|:\?)(?P<rest>[^}]*))?\}")
Condition = Literal["service_started", "service_healthy", "service_completed_successfully"]
LoopbackPort = Annotated[str, StringConstraints(pattern=r"^127\.0\.0\.1:\d+:\d+$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Build(Strict):
    context: str
    dockerfile: str
    args: dict[str, str]


class Healthcheck(Strict):
    test: list[str]
    interval: str
    timeout: str
    retries: int
    start_period: str | None = None


class Dependency(Strict):
    condition: Condition


class Device(Strict):
    driver: str
    count: Literal["all"] | int
    capabilities: list[str]


class Reservations(Strict):
    devices: list[Device]


class DeployResources(Strict):
    reservations: Reservations


class Deploy(Strict):
    replicas: Annotated[int, Field(ge=1)] | None = None
    resources: DeployResources | None = None


class ConfigMount(Strict):
    source: str
    target: str


class Service(Strict):
    image: str
    build: Build | None = None
    entrypoint: list[str] | None = None
    command: list[str] | None = None
    environment: dict[str, str] = {}
    ports: list[LoopbackPort] = []
    volumes: list[str] = []
    configs: list[ConfigMount] = []
    healthcheck: Healthcheck | None = None
    depends_on: dict[str, Dependency] = {}
    deploy: Deploy | None = None
    profiles: list[str] = []
    restart: Literal["unless-stopped", "on-failure", "no", "always"]
    shm_size: str | None = None
    stop_grace_period: str | None = None

    @property
    def words(self) -> list[str]:
        """The command line."""
        return [*(self.entrypoint or []), *(self.command or [])]


class InlineConfig(Strict):
    content: str


class Compose(Strict):
    name: str
    services: dict[str, Service]
    configs: dict[str, InlineConfig]
    volumes: dict[str, None]


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace ``${NAME}``, ``${NAME:-default}`` and ``${NAME:?message}`` in all strings.

    As in Compose, a string that is only one variable becomes an int if its value is a whole number.

    Raises:
        KeyError: If a variable with a message is not set.
    """
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match) -> str:
        given = variables.get(match["name"], "")
        if not given and match["kind"] == ":?":
            raise KeyError(f"{match['name']}: {match['rest']}")
        return given or (match["rest"] if match["kind"] == ":-" else "")

    filled = _VARIABLE.sub(fill, value)
    return int(filled) if _VARIABLE.fullmatch(value) and filled.isdigit() else filled


def read_compose(variables: Mapping[str, str]) -> Compose:
    """Read and check the file. The ``x-`` fragments are left out; anchors have copied their content."""
    (document,) = read_yaml(INFRA / "compose.yaml")
    kept = {key: value for key, value in document.items() if not key.startswith("x-")}
    return Compose.model_validate(interpolate(kept, variables))
