"""An S3 server on the loopback interface for tests: ``moto_server`` from its own environment.

moto pins old versions of libraries that the project needs, so it must be installed in another environment. Tests find
the executable by ``STGCMA_MOTO_SERVER`` or on ``PATH``. Without it they are skipped, or fail with
``STGCMA_REQUIRE_S3=1``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Start the server, set the ``AWS_*`` variables, create a bucket, and yield ``s3://<bucket>``."""
    executable = os.environ.get("STGCMA_MOTO_SERVER") or shutil.which("moto_server")
    if not executable:
        reason = (
            "no moto_server; install moto[s3,server] in another environment and set STGCMA_MOTO_SERVER "
            "to its moto_server"
        )
        if os.environ.get("STGCMA_REQUIRE_S3") == "1":
            pytest.fail(f"STGCMA_REQUIRE_S3=1, but there is {reason}")
        pytest.skip(reason)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    process = subprocess.Popen(
        [executable, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _create_bucket(f"{endpoint}/clips", process)
        yield "s3://clips"
    finally:
        process.terminate()
        process.wait(10)


def _create_bucket(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.1)
