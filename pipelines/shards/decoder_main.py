"""The child of ``pipelines.shards.decoder``: ``python -m pipelines.shards.decoder_main FD MEMORY_BYTES``.

It answers requests on the pipe until that closes, nobody asks, or it has grown.
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
"""Part of the memory limit by which a child may have grown for good before it is replaced."""
_TIGHT = 0.5
"""Part of the memory limit beyond which it is to blame: FFmpeg calls what it cannot allocate damaged data."""
_STATM_DATA = 5


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle, which then ends this process
    _end_with_parent()
    pipe, memory_bytes = Connection(int(sys.argv[1])), int(sys.argv[2])

    import torch  # after the signals, and before the first clip, whose time and memory are counted

    import pipelines.datasets  # noqa: F401
    from pipelines.shards.decoder import IDLE_SECONDS, Reply, Request, answer, too_large
    from stgcma.errors import ClipDecodeError

    torch.set_num_threads(1)  # the same bits, however many workers there are
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
        signal.alarm(math.ceil(request.seconds) + 10)  # where the parent is gone; the system enforces it
        before = _peak_bytes(reset=True)
        reply = answer(request)
        signal.alarm(0)
        _limit_memory(None)
        if isinstance(reply.error, ClipDecodeError) and _peak_bytes() - before > _TIGHT * memory_bytes:
            reply = Reply(error=too_large(request, reply.error))
        grown = _data_bytes() > start_bytes + _GROWN * memory_bytes
        pipe.send(Reply(rows=reply.rows, error=reply.error, is_last=grown))


def _end_with_parent() -> None:
    """Linux: the kernel ends this process when its parent does, and chooses it first when memory runs out."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        Path("/proc/self/oom_score_adj").write_text("500")


def _limit_memory(num_bytes: int | None) -> None:
    """Bound what the process may allocate; None: as much as at its start."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = hard if num_bytes is None else num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _peak_bytes(*, reset: bool = False) -> int:
    """Most memory that was in use since the last reset; 0 where the system does not say."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def _data_bytes() -> int:
    """Allocated memory as the limit counts it; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[_STATM_DATA])
    except OSError:
        return 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main()
