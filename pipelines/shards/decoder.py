"""A child process that decodes clips, so that no file can stop a job by crashing, looping or exhausting memory.

Native decoders may hold Python's lock forever, end the process, or take all memory. A process cannot stop this from
within, so each worker decodes in a child that it can kill and replace. It does so when a clip takes longer than
``Limits.seconds``, or when the child ends. The child limits its own memory. The clip then fails with a
``ClipDecodeError``, like any other failed clip.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe

from pipelines.clips import ClipRef
from pipelines.config import PreprocessConfig
from pipelines.datasets.base import DatasetSource
from stgcma.data.schema import ClipRow
from stgcma.errors import ClipDecodeError, RunFailedError

MAX_ATTEMPTS = 3
"""Something other than the clip may have ended the child, so the clip is tried again."""
START_SECONDS = 300.0
"""Time limit for a child to start, imports included."""
IDLE_SECONDS = 60.0
"""A child without a request for this long ends, because it holds 200 MB."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one clip."""

    seconds: float = 300.0
    memory_bytes: int = 1 << 30
    """On top of what the process uses before the clip."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that a child needs to make the rows of one media file."""

    dataset: DatasetSource
    refs: Sequence[ClipRef]
    source: str
    config: PreprocessConfig
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Rows, or the error raised instead."""

    rows: Sequence[ClipRow] = ()
    error: Exception | None = None
    is_last: bool = False
    """The child's memory has grown, so it ends now; the next clip needs another child."""


class DecodingProcess:
    """A decoding child and its replacements.

    Args:
        limits: Limits of each clip.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.surroundings = surroundings()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def rows(
        self, dataset: DatasetSource, refs: Sequence[ClipRef], source: str, config: PreprocessConfig
    ) -> Sequence[ClipRow]:
        """Call ``dataset.build_rows`` in the child.

        Args:
            dataset: The dataset of the clips.
            refs: Clips of one media file.
            source: URI of the source root.
            config: Settings of the run.

        Raises:
            ClipDecodeError: From ``build_rows``; or with stage ``decoder``, if the clip reached a limit or ended
                every child.
            OSError: If the disk or the network failed, not the clip.
            RunFailedError: If no child starts.
        """
        request = Request(dataset=dataset, refs=refs, source=source, config=config, seconds=self.limits.seconds)
        message = pickle.dumps(request)
        ended = ""
        try:
            for _ in range(MAX_ATTEMPTS):
                pipe = self._running()
                try:
                    reply = self._ask(pipe, message, refs[0].media_uri)
                except (EOFError, OSError):
                    ended = self._exit_reason()
                    continue
                if reply.is_last:
                    self.close()
                if reply.error:
                    raise reply.error
                return reply.rows
        except (KeyboardInterrupt, SystemExit):  # the child is still decoding, and nobody will read its reply
            self.close()
            raise
        raise ClipDecodeError(
            "decoder", f"ended its process {MAX_ATTEMPTS} times", f"{refs[0].media_uri}: {ended} the last time"
        )

    def _ask(self, pipe: Connection, message: bytes, media_uri: str) -> Reply:
        pipe.send_bytes(message)
        if pipe.poll(self.limits.seconds):
            reply = pipe.recv()
            assert isinstance(reply, Reply)
            return reply
        self.close()
        raise ClipDecodeError(
            "decoder", "clip time limit reached", f"{media_uri}: not decoded after {self.limits.seconds:g} s"
        )

    def _running(self) -> Connection:
        """The pipe of a ready child; starts a child if there is none."""
        if self._process is not None and self._pipe is not None and self._process.poll() is None:
            return self._pipe
        self.close()
        self._pipe, theirs = Pipe()
        path = os.pathsep.join([os.getcwd() if entry == "" else entry for entry in sys.path])
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "pipelines.shards.decoder_main",
                    str(theirs.fileno()),
                    str(self.limits.memory_bytes),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            )
        try:
            ready = self._pipe.poll(START_SECONDS) and self._pipe.recv()
        except (EOFError, OSError):
            ready = False
        if not ready:
            reason = self._exit_reason()
            self.close()
            raise RunFailedError(
                f"The decoding process did not start: {reason}. Its own message is above. If memory is short, use "
                "fewer workers (--num-workers)."
            )
        return self._pipe

    def _exit_reason(self) -> str:
        """How the child ended, in words."""
        if self._process is None:
            return "it had not started"
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it did not answer"
        return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Kill the child, whatever it is doing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


_spare: list[DecodingProcess] = []
"""Idle children that can be used again; each ends by itself after ``IDLE_SECONDS``."""


@contextlib.contextmanager
def decoding_process(limits: Limits) -> Iterator[DecodingProcess]:
    """A child for the duration of a block: an idle one with the same surroundings, or a new one."""
    process = DecodingProcess(limits)
    for other in _spare:
        if other.surroundings == process.surroundings and other.limits.memory_bytes == limits.memory_bytes:
            _spare.remove(other)
            process, other.limits = other, limits
            break
    try:
        yield process
    except BaseException:
        process.close()
        raise
    _spare.append(process)


def surroundings() -> tuple[str, dict[str, str]]:
    """What a child inherits when it starts: the working folder and the environment, which holds bucket credentials."""
    return os.getcwd(), dict(os.environ)


@atexit.register
def close_spare() -> None:
    """End the idle children."""
    while _spare:
        _spare.pop().close()


def answer(request: Request) -> Reply:
    """The child's side: make the rows, or turn the error into one that can be sent back."""
    from pipelines.storage import Storage

    try:
        return Reply(rows=request.dataset.build_rows(request.refs, Storage(request.source), request.config))
    except Exception as error:
        if _is_memory(error):
            error = too_large(request, error)
        elif isinstance(error, OSError):
            error = OSError(error.errno, error.strerror, error.filename) if error.errno else OSError(str(error))
        elif not isinstance(error, ClipDecodeError):
            # one clip must not end a job of hours; it becomes a failure that shows this traceback
            error = ClipDecodeError("unexpected", type(error).__name__, traceback.format_exc(limit=-5))
        return Reply(error=error)


def too_large(request: Request, error: Exception) -> ClipDecodeError:
    """The error for a clip whose decoding needs too much memory."""
    return ClipDecodeError("decoder", "clip memory limit reached", f"{request.refs[0].media_uri}: {error}")


def _is_memory(error: BaseException | None) -> bool:
    """Whether a failed allocation caused the error; PyTorch says so only in its message."""
    while error is not None:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
