"""The thread on which a call's callbacks run: in order, one at a time, never on the event loop.

A callback may therefore do what call code does, for example ``on_committed`` may call ``tts.speak()``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from .clock import Clock, ClockThread

__all__ = ["Dispatcher"]

log = logging.getLogger(__name__)


_LIMIT = 10_000  # callbacks of some hours


class Dispatcher:
    """Started with the first callback, ended by :meth:`close` after those already given.

    A callback that blocks keeps the others waiting; beyond a bound they are dropped and counted in ``dropped``.
    """

    def __init__(self, clock: Clock, name: str) -> None:
        self.name = name
        self._clock = clock
        self._queue = clock.queue()
        self._thread: ClockThread | None = None
        self._closed = False
        self.dropped = 0
        self._starting = threading.Lock()

    def submit(self, callback: Callable[[], object]) -> None:
        """Any thread. After :meth:`close` the callback is dropped: the call is over."""
        if self._closed:
            return
        if self._queue.qsize() >= _LIMIT:
            self.dropped += 1
            if self.dropped == 1:
                log.warning("%s: a callback blocks, %d more wait and further ones are dropped", self.name, _LIMIT)
            return
        self._queue.put(callback)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = self._clock.start_thread(self._run, self.name)

    def close(self) -> None:
        """No more callbacks; the thread ends when it has run those given before. Does not wait."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)

    @property
    def thread(self) -> ClockThread | None:
        return self._thread

    def _run(self) -> None:
        while (callback := self._queue.get()) is not None:
            try:
                callback()
            except BaseException:
                log.exception("A callback of %s failed", self.name)
