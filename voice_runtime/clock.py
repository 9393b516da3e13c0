"""The one clock. Everything that waits in a thread takes one; everything that waits on the event loop
uses a loop made by it.

:class:`SystemClock` is real time. ``voice_runtime.testing.clock.VirtualClock`` has the same shape and moves only
when every participant waits, so that a call of five minutes is tested in milliseconds.

Two rules keep both interchangeable:

* Threads block through the clock's own ``condition()``, ``event()``, ``queue()``, ``sleep()`` and are started by
  ``start_thread()``; never through ``threading`` or ``time`` directly.
* Coroutines use plain asyncio (``asyncio.sleep``, ``asyncio.timeout``, ``loop.call_later``) on a loop from
  ``new_event_loop()``: its ``loop.time()`` *is* this clock's ``monotonic()``.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

__all__ = ["Clock", "ClockCondition", "ClockEvent", "ClockQueue", "ClockThread", "SystemClock"]


class ClockEvent(Protocol):
    """As ``threading.Event``; timeouts in seconds."""

    def is_set(self) -> bool: ...
    def set(self) -> None: ...
    def clear(self) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...


class ClockCondition(Protocol):
    """As ``threading.Condition`` over the lock it was made with; timeouts in seconds."""

    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...
    def release(self) -> None: ...
    def __enter__(self) -> bool: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any: ...
    def notify(self, n: int = 1) -> None: ...
    def notify_all(self) -> None: ...


class ClockQueue(Protocol):
    """As ``queue.SimpleQueue``: unbounded, any thread; ``get`` raises ``queue.Empty`` on expiry (seconds)."""

    def put(self, item: Any) -> None: ...
    def get(self, block: bool = True, timeout: float | None = None) -> Any: ...
    def qsize(self) -> int: ...
    def empty(self) -> bool: ...


class ClockThread(Protocol):
    """As ``threading.Thread``, already started."""

    name: str

    @property
    def ident(self) -> int | None: ...
    def is_alive(self) -> bool: ...
    def join(self, timeout: float | None = None) -> None: ...


@runtime_checkable
class Clock(Protocol):
    """What every clock offers. All methods may be called from any thread."""

    def monotonic(self) -> float:
        """Seconds that never jump; the origin means nothing."""

    def time(self) -> float:
        """Seconds since 1970-01-01 UTC, for records people read."""

    def sleep(self, seconds: float) -> None:
        """Block the calling thread."""

    def event(self) -> ClockEvent: ...
    def condition(self, lock: threading.Lock | None = None) -> ClockCondition: ...
    def queue(self) -> ClockQueue: ...

    def start_thread(self, target: Callable[[], Any], name: str) -> ClockThread:
        """Start a daemon thread that takes part in this clock."""

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """A loop whose ``time()`` is this clock. Not yet running; the caller closes it."""


class SystemClock:
    """Real time."""

    # The function itself: it is called several times for each frame.
    monotonic = staticmethod(time.monotonic)

    def time(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def event(self) -> ClockEvent:
        return threading.Event()

    def condition(self, lock: threading.Lock | None = None) -> ClockCondition:
        return threading.Condition(lock or threading.Lock())

    def queue(self) -> ClockQueue:
        return queue.SimpleQueue()

    def start_thread(self, target: Callable[[], Any], name: str) -> ClockThread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        try:
            import uvloop
        except ImportError:  # Windows has none
            return asyncio.new_event_loop()
        return uvloop.new_event_loop()
