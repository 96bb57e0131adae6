"""The Compose file: its fields, the connections between services and their commands.

``tests/ray/test_mlflow_server.py`` runs its ``mlflow`` command with real services.
"""

from __future__ import annotations

import json
import re

import click
import mlflow.cli
import pytest
import ray.scripts.scripts

from tests.unit.infra.compose_model import Compose, read_compose
from tests.unit.infra.files import INFRA, byte_size

VARIABLES = {
    "POSTGRES_PASSWORD": "abc123",
    "S3_ACCESS_KEY": "key1",
    "S3_SECRET_KEY": "secret1",
    "RAY_AUTH_TOKEN": "token1",
}


@pytest.fixture(scope="module")
def compose() -> Compose:
    return read_compose(VARIABLES)


@pytest.mark.parametrize("name", VARIABLES)
def test_secrets_have_no_default(name: str):
    with pytest.raises(KeyError, match=rf"{name}: set it in infra/\.env"):
        read_compose({key: value for key, value in VARIABLES.items() if key != name})


def test_the_example_lists_every_variable_and_no_secret():
    example = dict(
        line.split("=", 1)
        for line in (INFRA / "compose.env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    used = set(re.findall(r"\$\{(\w+)", (INFRA / "compose.yaml").read_text()))
    assert example.keys() == used - {"STGCMA_DATA"}
    assert all(example[name] == "" for name in VARIABLES)


def test_everything_a_service_refers_to_exists(compose: Compose):
    for name, service in compose.services.items():
        for other, dependency in service.depends_on.items():
            assert other in compose.services, f"{name} depends on {other}"
            if dependency.condition == "service_healthy":
                assert compose.services[other].healthcheck is not None
        for mount in service.configs:
            assert mount.source in compose.configs
        for volume in service.volumes:
            source = volume.split(":")[0]
            assert source in compose.volumes or source.startswith(("./", "../", "/"))


def test_the_image_is_built_from_the_dockerfile_with_the_accelerator_chosen():
    for accelerator in ("cpu", "cuda"):
        services = read_compose({**VARIABLES, "ACCELERATOR": accelerator}).services
        built = [service for service in services.values() if service.build]
        assert {service.image for service in built} == {f"stgcma:{accelerator}"}
        for service in built:
            assert service.build.args == {"ACCELERATOR": accelerator, "GIT_COMMIT": "unknown"}
            assert (INFRA / service.build.context / service.build.dockerfile).is_file()


def test_the_clients_find_tracking_server_and_object_store(compose: Compose):
    for name in ("mlflow", "ray-head", "ray-worker", "ray-worker-gpu", "buckets"):
        environment = compose.services[name].environment
        host, port = re.fullmatch(r"http://([\w-]+):(\d+)", environment["AWS_ENDPOINT_URL"]).groups()
        assert f"-s3.port={port}" in compose.services[host].command
        host, port = re.fullmatch(r"http://([\w-]+):(\d+)", environment["MLFLOW_TRACKING_URI"]).groups()
        assert f"--port={port}" in compose.services[host].command
        assert environment["AWS_ACCESS_KEY_ID"] == "key1"


def test_the_object_store_knows_the_keys_the_clients_use(compose: Compose):
    (mount,) = compose.services["objectstore"].configs
    assert f"-s3.config={mount.target}" in compose.services["objectstore"].command
    (identity,) = json.loads(compose.configs[mount.source].content)["identities"]
    assert identity["credentials"] == [{"accessKey": "key1", "secretKey": "secret1"}]


def test_the_tracking_server_is_on_postgresql_with_proxied_artifacts(compose: Compose):
    values = parsed(mlflow.cli.server, compose.services["mlflow"].words[2:])
    assert compose.services["mlflow"].words[:2] == ["mlflow", "server"]
    assert values["backend_store_uri"] == "postgresql+psycopg2://mlflow:abc123@postgres:5432/mlflow"
    assert values["serve_artifacts"] is True
    bucket = values["artifacts_destination"].removeprefix("s3://").split("/")[0]
    assert bucket in compose.services["buckets"].command
    assert "mlflow:5000" in values["allowed_hosts"].split(",")
    assert "RAY_AUTH_TOKEN" not in compose.services["mlflow"].environment
    postgres = compose.services["postgres"].environment
    assert (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]) == ("mlflow", "mlflow")


def test_the_ray_nodes_start_with_options_that_ray_has(compose: Compose):
    head = parsed(ray.scripts.scripts.start, compose.services["ray-head"].words[2:])
    assert head["head"]
    assert head["num_cpus"] == 0
    address = f"ray-head:{head['port']}"
    assert compose.services["ray-head"].environment["RAY_ADDRESS"] == address
    for name in ("ray-worker", "ray-worker-gpu"):
        worker = parsed(ray.scripts.scripts.start, compose.services[name].words[2:])
        assert worker["address"] == address
        assert worker["num_cpus"] == 4
    for name in ("ray-head", "ray-worker", "ray-worker-gpu"):
        service = compose.services[name]
        assert service.words[:2] == ["ray", "start"]
        assert (service.environment["RAY_AUTH_MODE"], service.environment["RAY_AUTH_TOKEN"]) == ("token", "token1")
        store = parsed(ray.scripts.scripts.start, service.words[2:])["object_store_memory"]
        assert byte_size(service.shm_size) >= store


def test_scripts_that_services_run_are_in_the_image(compose: Compose):
    script = compose.services["buckets"].entrypoint[1]
    assert f"COPY {script} {script}" in (INFRA / "Dockerfile").read_text()
    assert f"!{script}" in (INFRA / "Dockerfile.dockerignore").read_text().splitlines()


def parsed(command: click.Command, words: list[str]) -> dict:
    """Parse the options of a command line without running it. Unknown options raise."""
    with command.make_context(command.name, list(words)) as context:
        return context.params
