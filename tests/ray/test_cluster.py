"""The Ray nodes of ``infra/compose.yaml`` as processes of this machine: a head that computes nothing, and one worker.

The commands are those of a laptop; only ``RAY_ADDRESS`` is added to the environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from secrets import token_hex

import pytest
from ray.util import get_node_ip_address

from jobs.runs.folder import LAST, RunFolder
from pipelines.config import PreprocessConfig
from pipelines.preprocess import preprocess
from pipelines.synthetic.ave_layout import write_synthetic_ave
from pipelines.synthetic.configs import SyntheticConfig
from tests.ray.services import ROOT, free_port, service
from tests.unit.infra.compose_model import read_compose

pytestmark = pytest.mark.cluster

RECIPE = ROOT / "jobs" / "recipes" / "demo" / "clip_vit_demo.yaml"
CPUS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment variables with which commands find the cluster."""
    port = free_port()
    address = f"{get_node_ip_address()}:{port}"
    secrets = dict.fromkeys(("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"), "unused")
    variables = {**secrets, "RAY_AUTH_TOKEN": token_hex(32), "RAY_WORKER_CPUS": str(CPUS)}
    services = read_compose(variables).services
    changed = {
        "ray": str(Path(sys.executable).with_name("ray")),
        "ray-head:6379": address,
        "--port=6379": f"--port={port}",
        "--address=ray-head:6379": f"--address={address}",
        "--object-store-memory=1073741824": "--object-store-memory=134217728",
        "--dashboard-host=0.0.0.0": "--include-dashboard=false",
    }

    def here(words: list[str]) -> list[str]:
        return [changed.get(word, word) for word in words]

    # A short path, because the names of Ray's sockets in it may have at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder, ExitStack() as stack:
        environment = {name: services["ray-head"].environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        environment |= {"RAY_TMPDIR": folder, "OMP_NUM_THREADS": "1"}
        health_check = here(services["ray-head"].healthcheck.test[1:])

        def is_healthy() -> bool:
            return subprocess.run(health_check, env={**os.environ, **environment}, capture_output=True).returncode == 0

        def start(name: str, is_ready: Callable[[], bool]) -> None:
            own = [f"--dashboard-agent-listen-port={free_port()}"]  # both nodes are on one machine
            words = [*here(services[name].words), *own]
            stack.enter_context(service(words, environment, is_ready=is_ready, what=name))

        start("ray-head", is_healthy)
        start("ray-worker", lambda: True)  # tasks wait until it has joined
        yield {**environment, "RAY_ADDRESS": address}


def stgcma_jobs(environment: dict[str, str], *words: str) -> dict:
    program = Path(sys.executable).with_name("stgcma-jobs")
    done = subprocess.run(
        [program, *words, "--json"], env={**os.environ, **environment}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(1500)
def test_the_commands_of_a_laptop_run_unchanged_on_a_cluster(cluster, tmp_path):
    raw = tmp_path / "raw"
    write_synthetic_ave(SyntheticConfig(num_train=8, num_val=2, num_test=2, num_workers=1), raw)
    here = preprocess(
        PreprocessConfig(
            dataset="ave",
            source=str(raw),
            output=str(tmp_path / "here"),
            fbank_specs=("demo",),
            clips_per_shard=3,
            num_workers=0,
        )
    )
    there = stgcma_jobs(
        cluster,
        "preprocess",
        "--dataset",
        "ave",
        "--source",
        str(raw),
        "--output",
        str(tmp_path / "there"),
        "--fbank",
        "demo",
        "--clips-per-shard",
        "3",
        "--num-workers",
        str(CPUS),
    )
    assert there["digest"] == here.manifest.digest
    assert there["made_shards"] == here.made_shards

    trained = stgcma_jobs(
        cluster,
        "train",
        str(RECIPE),
        "--set",
        "optim.epochs=1",
        "--shards",
        str(tmp_path / "there"),
        "--output",
        str(tmp_path / "runs"),
        "--num-workers",
        str(CPUS),
        "--tracking",
        "none",
        "--device",
        "cpu",
    )
    assert trained["epochs_run"] == 1
    folder = RunFolder(trained["run"])
    assert folder.exists(LAST)
    assert folder.read_json("run.json")["sessions"][0]["num_workers"] == CPUS
