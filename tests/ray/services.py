"""Real servers on loopback for the tests: an S3 server (moto) and PostgreSQL.

Each server takes a free port and stops at the end of the block that started it. The S3 server has an environment of
its own in ``.make/``, created on first use from ``infra/tools-constraints.txt``. If a server cannot be installed, tests
skip and say why; with ``STGCMA_REQUIRE_SHARED=1`` they fail.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.paths import ROOT

TOOLS = ROOT / ".make" / "moto-env"
TOOL_CONSTRAINTS = ROOT / "infra" / "tools-constraints.txt"
TOOL_PACKAGES = ("moto[s3]", "flask", "flask-cors")
POSTGRESQL_PROGRAMS = ("initdb", "postgres", "createdb")
S3_KEYS = {"AWS_ACCESS_KEY_ID": "stgcma-tests", "AWS_SECRET_ACCESS_KEY": "stgcma-tests-secret"}


def unavailable(reason: str) -> NoReturn:
    """Skip the calling test, or fail it if ``STGCMA_REQUIRE_SHARED=1``."""
    if os.environ.get("STGCMA_REQUIRE_SHARED") == "1":
        pytest.fail(f"STGCMA_REQUIRE_SHARED=1, but {reason}")
    pytest.skip(reason)


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Run an empty S3 server. Yields the ``AWS_*`` variables for it."""
    program = _tool_environment() / "bin" / "moto_server"
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [program, "-H", "127.0.0.1", "-p", str(port)]
    with service(command, {}, is_ready=lambda: http_status(f"{address}/moto-api/") == 200, what="the S3 server"):
        yield {**S3_KEYS, "AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}


def has_postgresql() -> bool:
    """Whether PostgreSQL and its Python driver are installed."""
    return all(map(find_postgresql_program, POSTGRESQL_PROGRAMS)) and importlib.util.find_spec("psycopg2") is not None


@contextmanager
def postgresql() -> Iterator[str]:
    """Run an empty PostgreSQL database. Yields its SQLAlchemy address."""
    programs = {name: find_postgresql_program(name) for name in POSTGRESQL_PROGRAMS}
    with ExitStack() as stack:
        # A short path, because the name of the socket in it may have at most 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp")))
        user = _ordinary_user(folder)
        data, port = folder / "data", free_port()
        subprocess.run(
            [programs["initdb"], "-D", data, "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True,
            capture_output=True,
            timeout=120,
            cwd=folder,
            **user,
        )
        log = stack.enter_context(tempfile.TemporaryFile())
        command = [programs["postgres"], "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", folder, "-F"]
        process = stack.enter_context(_running(command, log=log, cwd=folder, **user))
        create = [programs["createdb"], "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow", "mlflow"]
        wait_for(
            lambda: subprocess.run(create, capture_output=True, timeout=60, cwd=folder).returncode == 0,
            process,
            log,
            what="PostgreSQL",
        )
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/mlflow"


def find_postgresql_program(name: str) -> str | None:
    """Find a program on the path or in Debian's folder for servers; None if it is not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    return shutil.which(name) or (str(versions[-1]) if versions else None)


@contextmanager
def service(
    command: Sequence[str | Path], environment: Mapping[str, str], *, is_ready: Callable[[], bool], what: str
) -> Iterator[subprocess.Popen]:
    """Run any other server: start it, wait until it is ready, stop it."""
    with tempfile.TemporaryFile() as log, _running(command, log=log, env={**os.environ, **environment}) as process:
        wait_for(is_ready, process, log, what=what)
        yield process


def http_status(address: str, headers: Mapping[str, str] | None = None) -> int | None:
    """HTTP status of a GET request; None without an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=dict(headers or {})), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def wait_for(is_ready: Callable[[], bool], process: subprocess.Popen, log, *, what: str, seconds: float = 400) -> None:
    """Poll until a server is ready.

    Raises:
        RuntimeError: With the server's output, if it ends or takes too long.
    """
    deadline = time.monotonic() + seconds
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            end = f"ended with {process.returncode}" if process.poll() is not None else f"gave no answer in {seconds} s"
            raise RuntimeError(f"{what} {end}:\n{log.read().decode(errors='replace')[-3000:]}")
        time.sleep(0.2)


@contextmanager
def _running(command: Sequence[str | Path], *, log, **options) -> Iterator[subprocess.Popen]:
    """Run a server in a process group of its own, so that its child processes end with it."""
    process = subprocess.Popen(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        **options,
    )
    try:
        yield process
    finally:
        for stop in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)


def _tool_environment() -> Path:
    """The virtual environment of the S3 server, created again if its pins or this Python change."""
    wanted = hashlib.sha256(f"{sys.version}{TOOL_PACKAGES}{TOOL_CONSTRAINTS.read_text()}".encode()).hexdigest()
    stamp = TOOLS / "made-from"
    TOOLS.parent.mkdir(exist_ok=True)
    with (TOOLS.parent / "moto-env.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.is_file() and stamp.read_text() == wanted:
            return TOOLS
        install = [TOOLS / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run(
                [sys.executable, "-m", "venv", "--clear", TOOLS], check=True, capture_output=True, timeout=120
            )
            subprocess.run(
                [*install, "-c", TOOL_CONSTRAINTS, *TOOL_PACKAGES], check=True, capture_output=True, timeout=300
            )
        except (OSError, subprocess.SubprocessError) as error:
            output = getattr(error, "stderr", None) or b""
            unavailable(f"the S3 server moto cannot be installed: {error}\n{output.decode(errors='replace')[-1000:]}")
        stamp.write_text(wanted)
    return TOOLS


def _ordinary_user(folder: Path) -> dict[str, int]:
    """The account for PostgreSQL, which does not run as root. If this is root, another account gets the folder."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    account = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, account.pw_uid, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid}
