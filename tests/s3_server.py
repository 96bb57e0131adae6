"""A real S3 server on loopback for tests: ``moto_server`` out of an environment of its own.

moto pins old versions of libraries that the project needs, so it is never installed beside it. Tests find it through
``STGCMA_MOTO_SERVER`` (path of the executable) or on ``PATH``; without it they skip and say so, or fail when
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
    """Start the server, point the ``AWS_*`` variables at it, create a bucket; yields ``s3://<bucket>``."""
    executable = os.environ.get("STGCMA_MOTO_SERVER") or shutil.which("moto_server")
    if not executable:
        reason = (
            "no moto_server; install moto[s3,server] in an environment of its own and set STGCMA_MOTO_SERVER "
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
