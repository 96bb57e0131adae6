"""Files that take the whole process with them: a crash inside a decoder, or memory that runs out.

Before a media file is decoded its name is written down beside the shard's state, and forgotten when the shard is done.
A note that is still there when the shard is begun again says what killed the previous attempt. Three times the same
file, and it becomes a failure like any other.
"""

from __future__ import annotations

import json

from pipelines.storage import Storage
from stgcma.errors import ClipDecodeError

MAX_ATTEMPTS = 3


class Attempts:
    """The note of one shard."""

    def __init__(self, output: Storage, shard: str) -> None:
        self._output = output
        self._path = f"_state/{shard}.attempt.json"
        self._died: dict[str, int] = {}
        if output.exists(self._path):
            self._died = json.loads(output.read_text(self._path))

    def begin(self, media_uri: str) -> None:
        """About to decode this file.

        Raises:
            ClipDecodeError: Stage ``decoder``, if it has ended so many attempts.
        """
        count = self._died.get(media_uri, 0)
        if count >= MAX_ATTEMPTS:
            raise ClipDecodeError("decoder", f"ended the process {MAX_ATTEMPTS} times", media_uri)
        note = json.dumps({**self._died, media_uri: count + 1})
        self._output.write_bytes(self._path, note.encode(), durable=False)

    def finish(self) -> None:
        """The shard is written."""
        self._output.delete(self._path)
