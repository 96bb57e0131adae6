"""The child of ``pipelines.shards.decoder``: ``python -m pipelines.shards.decoder_main FD MEMORY_BYTES``.

It answers requests on the pipe until the pipe closes, no request comes for a while, or its memory has grown.
"""

from __future__ import annotations

import ctypes
import math
import pickle
import resource
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_GROWN = 0.5
"""Fraction of the memory limit; a child that has grown by more than this is replaced."""
_TIGHT = 0.5
"""Fraction of the memory limit. If a failed clip used more, memory is the cause: FFmpeg reports memory that it cannot
allocate as damaged data."""
_STATM_DATA = 5


def main() -> None:
    """Tell the parent that this process is ready, then answer its requests."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends this process
    _end_with_parent()
    pipe, memory_bytes = Connection(int(sys.argv[1])), int(sys.argv[2])

    import torch  # after the signals are set, and before the limits of the first clip begin

    import pipelines.datasets  # noqa: F401
    from pipelines.shards.decoder import IDLE_SECONDS, Reply, Request, answer, too_large
    from stgcma.errors import ClipDecodeError

    torch.set_num_threads(1)  # gives the same bits with any number of workers
    start_bytes = _data_bytes()
    pipe.send(True)
    grown = False
    while not grown and pipe.poll(IDLE_SECONDS):
        try:
            request = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        assert isinstance(request, Request)
        _limit_memory(_data_bytes() + memory_bytes)
        signal.alarm(math.ceil(request.seconds) + 10)  # if the parent is gone, the system enforces the limit
        before = _peak_bytes(reset=True)
        reply = answer(request)
        signal.alarm(0)
        _limit_memory(None)
        if isinstance(reply.error, ClipDecodeError) and _peak_bytes() - before > _TIGHT * memory_bytes:
            reply = Reply(error=too_large(request, reply.error))
        grown = _data_bytes() > start_bytes + _GROWN * memory_bytes
        pipe.send(Reply(rows=reply.rows, error=reply.error, is_last=grown))


def _end_with_parent() -> None:
    """On Linux, let the kernel end this process with its parent, and choose it first if memory runs out."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text("500")


def _limit_memory(num_bytes: int | None) -> None:
    """Limit the bytes that the process may allocate; None: the limit at its start."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = hard if num_bytes is None else num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _peak_bytes(*, reset: bool = False) -> int:
    """Most memory in use since the last reset; 0 if the system does not report it."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _data_bytes() -> int:
    """Allocated memory, counted as for the limit; 0 if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[_STATM_DATA])
    except OSError:
        return 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
