"""The Ray nodes of ``infra/compose.yaml`` as processes of this machine: a head that computes nothing and one worker.

The same commands as on a laptop, with ``RAY_ADDRESS`` in the environment and nothing else changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ray.util import get_node_ip_address

from jobs.run_folder import LAST, RunFolder
from pipelines.config import PreprocessConfig
from pipelines.datasets.synthetic import write_synthetic_ave
from pipelines.preprocess import preprocess
from pipelines.synthetic.clips import SyntheticConfig
from tests.ray.services import ROOT, free_port, service
from tests.unit.infra.compose_model import read_compose

pytestmark = pytest.mark.ray

RECIPE = ROOT / "jobs" / "recipes" / "demo" / "clip_vit_demo.yaml"
CPUS = 2


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Yields the environment in which commands find the cluster."""
    port = free_port()
    address = f"{get_node_ip_address()}:{port}"
    secrets = dict.fromkeys(("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"), "unused")
    services = read_compose({**secrets, "RAY_WORKER_CPUS": str(CPUS)}).services
    changed = {
        "--port=6379": f"--port={port}",
        "--address=ray-head:6379": f"--address={address}",
        "--object-store-memory=1073741824": "--object-store-memory=134217728",
        "--dashboard-host=0.0.0.0": "--include-dashboard=false",
    }
    environment = {"RAY_ADDRESS": address, "RAY_TMPDIR": str(tmp_path_factory.mktemp("ray")), "OMP_NUM_THREADS": "1"}
    ray = Path(sys.executable).with_name("ray")
    with ExitStack() as stack:
        for name, expected in (("ray-head", 0), ("ray-worker", CPUS)):
            words = [changed.get(word, word) for word in services[name].words[1:]]
            own = [f"--dashboard-agent-listen-port={free_port()}"]  # two nodes, one machine
            stack.enter_context(
                service(
                    [ray, *words, *own], environment,
                    is_ready=lambda expected=expected: cpus_of(environment) == expected, what=name,
                )
            )  # fmt: skip
        yield environment


def cpus_of(environment: dict[str, str]) -> int | None:
    """CPUs of the cluster; None while nobody answers."""
    code = "import ray, sys; ray.init(sys.argv[1]); print(int(ray.cluster_resources().get('CPU', 0)))"
    command = [sys.executable, "-c", code, environment["RAY_ADDRESS"]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return None
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def stgcma_jobs(environment: dict[str, str], *words: str) -> dict:
    program = Path(sys.executable).with_name("stgcma-jobs")
    done = subprocess.run(
        [program, *words, "--json"], env={**os.environ, **environment}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_the_commands_of_a_laptop_run_unchanged_on_a_cluster(cluster, tmp_path):
    raw = tmp_path / "raw"
    write_synthetic_ave(SyntheticConfig(num_train=8, num_val=2, num_test=2, num_workers=1), raw)
    here = preprocess(
        PreprocessConfig(
            dataset="ave", source=str(raw), output=str(tmp_path / "here"), fbank_specs=("demo",), clips_per_shard=3,
            num_workers=0,
        )
    )  # fmt: skip
    there = stgcma_jobs(
        cluster, "preprocess", "--dataset", "ave", "--source", str(raw), "--output", str(tmp_path / "there"),
        "--fbank", "demo", "--clips-per-shard", "3",
    )  # fmt: skip
    assert there["digest"] == here.manifest.digest
    assert there["made_shards"] == here.made_shards

    trained = stgcma_jobs(
        cluster, "train", str(RECIPE), "--set", "optim.epochs=1", "--shards", str(tmp_path / "there"),
        "--output", str(tmp_path / "runs"), "--num-workers", str(CPUS), "--tracking", "none", "--device", "cpu",
    )  # fmt: skip
    assert trained["epochs_run"] == 1
    folder = RunFolder(trained["run"])
    assert folder.exists(LAST)
    assert folder.read_json("run.json")["sessions"][0]["num_workers"] == CPUS
