"""Progress reports of a run. The command line shows a bar; other callers get a log line from time to time."""

from __future__ import annotations

import logging
import time
from typing import Protocol

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LINES = 30.0


class Reporter(Protocol):
    """Receives progress in the driver process. Counts are clips (rows)."""

    def start(self, total: int, done: int) -> None:
        """The run begins; an earlier run already made ``done`` of ``total`` clips."""

    def advance(self, made: int, lost: int) -> None:
        """``made`` more clips became rows and ``lost`` more failed."""

    def note(self, text: str) -> None:
        """A fact that the user should know."""

    def finish(self) -> None:
        """The run ends; no more calls follow."""


class LogReporter:
    """Logs a line every half minute, for output that nobody watches."""

    def start(self, total: int, done: int) -> None:
        self._total, self._done, self._lost, self._started = total, done, 0, time.monotonic()
        self._begun_with, self._last_line = done, self._started
        if done < total:
            _LOG.info("%d of %d clips to make", total - done, total)

    def advance(self, made: int, lost: int) -> None:
        self._done += made + lost
        self._lost += lost
        if time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES or self._done == self._total:
            self._last_line = time.monotonic()
            rate = (self._done - self._begun_with) / max(self._last_line - self._started, 1e-9)
            left = (self._total - self._done) / rate
            _LOG.info(
                "%d/%d clips, %d failed, %.1f clips/s, %.0f s left", self._done, self._total, self._lost, rate, left
            )

    def note(self, text: str) -> None:
        _LOG.warning("%s", text)

    def finish(self) -> None:
        pass
