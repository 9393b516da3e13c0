"""Virtual time: a clock that moves only when everybody waits.

::

    with VirtualClock() as clock:
        loop = clock.new_event_loop()
        thread = clock.start_thread(loop.run_forever, "loop")
        clock.sleep(300)                    # five minutes in microseconds

The thread that enters the ``with`` block is a participant, and so are the threads started by ``start_thread``, the
event loops made by ``new_event_loop`` and the functions they run through ``run_in_executor``. When all of them wait,
time jumps to the earliest deadline and that one participant goes on; at equal deadlines they go one after the
other, in the order in which they began to wait. A participant that blocks outside the clock (``time.sleep``, a
socket) stops time while it does so: nothing expires behind its back.

Real sockets do not belong here. The wire is in memory (:mod:`voice_runtime.testing.memory_wire`).
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import heapq
import itertools
import queue
import selectors
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..clock import ClockCondition, ClockEvent, ClockQueue, ClockThread

__all__ = ["VirtualClock", "VirtualEventLoop"]

_EPOCH = 1_790_000_000.0  # an arbitrary instant in 2026: virtual wall time starts here in every run


class _Waiter:
    """One participant that waits, or is about to."""

    __slots__ = ("counted", "expired", "parked", "semaphore", "woken")

    def __init__(self, counted: bool) -> None:
        self.semaphore = threading.Semaphore(0)
        self.counted = counted  # whether it is one of the participants whose waiting lets time move
        self.parked = False
        self.woken = False
        self.expired = False


class VirtualClock:
    """See the module's text. Also counts: ``jumps`` is how often time moved."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0.0
        self._running = 0
        self._timers: list[tuple[float, int, _Waiter]] = []
        self._sequence = itertools.count()
        self._local = threading.local()
        self.jumps = 0

    # -- participants -------------------------------------------------------------------------------------------

    def __enter__(self) -> VirtualClock:
        self._join_in()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._drop_out()

    def _join_in(self) -> None:
        with self._lock:
            self._running += 1
        self._local.counted = True

    def _drop_out(self) -> None:
        self._local.counted = False
        with self._lock:
            self._running -= 1
            self._advance_if_idle()

    def _new_waiter(self) -> _Waiter:
        return _Waiter(getattr(self._local, "counted", False))

    def _park(self, waiter: _Waiter, timeout: float | None) -> bool:
        """Wait until woken or until ``timeout`` virtual seconds have passed; True when woken."""
        with self._lock:
            if waiter.woken:
                return True
            if timeout is not None:
                deadline = self._now + max(0.0, timeout)
                heapq.heappush(self._timers, (deadline, next(self._sequence), waiter))
            waiter.parked = True
            if waiter.counted:
                self._running -= 1
            self._advance_if_idle()
        waiter.semaphore.acquire()
        return not waiter.expired

    def _wake(self, waiter: _Waiter) -> bool:
        """Let a waiter go on. It counts as running from this moment, not from when its thread gets the processor."""
        with self._lock:
            return self._release(waiter)

    def _release(self, waiter: _Waiter) -> bool:
        if waiter.woken:
            return False
        waiter.woken = True
        if waiter.parked:
            if waiter.counted:
                self._running += 1
            waiter.semaphore.release()
        return True

    def _advance_if_idle(self) -> None:
        while self._running == 0 and self._timers:
            deadline, _, waiter = heapq.heappop(self._timers)
            if waiter.woken:
                continue
            if deadline > self._now:
                self._now = deadline
                self.jumps += 1
            waiter.expired = True
            self._release(waiter)
            if not waiter.counted:
                # It is not counted while it runs, so do not move past it: the next participant to wait goes on.
                break

    # -- the clock ----------------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        return _EPOCH + self._now

    def sleep(self, seconds: float) -> None:
        self._park(self._new_waiter(), seconds)

    def event(self) -> ClockEvent:
        return _VirtualEvent(self)

    def condition(self, lock: threading.Lock | None = None) -> ClockCondition:
        return _VirtualCondition(self, lock)

    def queue(self) -> ClockQueue:
        return _VirtualQueue(self)

    def start_thread(self, target: Callable[[], Any], name: str) -> ClockThread:
        thread = _VirtualThread(self, target, name)
        thread.start()
        return thread

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualEventLoop(self)


class _VirtualThread(threading.Thread):
    def __init__(self, clock: VirtualClock, target: Callable[[], Any], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._clock = clock
        self._body = target
        self._finished = clock.event()
        with clock._lock:  # counted before it starts, or time could move in between
            clock._running += 1

    def run(self) -> None:
        self._clock._local.counted = True
        try:
            self._body()
        finally:
            self._finished.set()
            self._clock._drop_out()

    def join(self, timeout: float | None = None) -> None:
        if self._finished.wait(timeout):
            super().join()


class _VirtualCondition:
    def __init__(self, clock: VirtualClock, lock: threading.Lock | None) -> None:
        self._clock = clock
        self._lock = lock or threading.Lock()
        self._waiters: collections.deque[_Waiter] = collections.deque()
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        waiter = self._clock._new_waiter()
        self._waiters.append(waiter)
        self._lock.release()
        try:
            return self._clock._park(waiter, timeout)
        finally:
            self._lock.acquire()
            try:
                self._waiters.remove(waiter)
            except ValueError:
                pass  # notify() took it out

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        while not (result := predicate()):
            left = None if deadline is None else deadline - self._clock.monotonic()
            if left is not None and left <= 0:
                return predicate()
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        while n > 0 and self._waiters:
            if self._clock._wake(self._waiters.popleft()):
                n -= 1

    def notify_all(self) -> None:
        self.notify(len(self._waiters))


class _VirtualEvent:
    def __init__(self, clock: VirtualClock) -> None:
        self._condition = _VirtualCondition(clock, None)
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        with self._condition:
            self._flag = True
            self._condition.notify_all()

    def clear(self) -> None:
        with self._condition:
            self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        with self._condition:
            return bool(self._condition.wait_for(lambda: self._flag, timeout))


class _VirtualQueue:
    def __init__(self, clock: VirtualClock) -> None:
        self._condition = _VirtualCondition(clock, None)
        self._items: collections.deque[Any] = collections.deque()

    def put(self, item: Any) -> None:
        with self._condition:
            self._items.append(item)
            self._condition.notify()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        with self._condition:
            if not self._condition.wait_for(lambda: self._items, timeout if block else 0):
                raise queue.Empty
            return self._items.popleft()

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items


class _VirtualSelector(selectors.DefaultSelector):
    """Looks at the real descriptors without waiting; waits on the virtual clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock
        self._guard = threading.Lock()
        self._waiter: _Waiter | None = None
        self._poked = False

    def poke(self) -> None:
        with self._guard:
            waiter = self._waiter
            if waiter is None:
                self._poked = True
        if waiter is not None:
            self._clock._wake(waiter)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        waiter = self._clock._new_waiter()
        with self._guard:
            if self._poked:
                self._poked = False
                return super().select(0)
            self._waiter = waiter
        self._clock._park(waiter, timeout)
        with self._guard:
            self._waiter = None
            self._poked = False
        return super().select(0)


class VirtualEventLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time. Real descriptors are only looked at between jumps."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._virtual_selector = _VirtualSelector(clock)
        self._workers: concurrent.futures.ThreadPoolExecutor | None = None
        super().__init__(self._virtual_selector)

    def time(self) -> float:
        return self._clock.monotonic()

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._virtual_selector.poke()
        return handle

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Time stands still while the function runs, except where it waits on the clock itself."""
        if executor is None:
            if self._workers is None:
                self._workers = concurrent.futures.ThreadPoolExecutor(thread_name_prefix="virtual-executor")
            executor = self._workers
        clock = self._clock

        def counted() -> Any:
            clock._local.counted = True
            try:
                return func(*args)
            finally:
                clock._local.counted = False

        with clock._lock:
            clock._running += 1
        future = executor.submit(counted)
        wrapped = asyncio.wrap_future(future, loop=self)  # its wake-up of the loop comes before the next line's

        def done(_: Any) -> None:
            with clock._lock:
                clock._running -= 1
                clock._advance_if_idle()

        future.add_done_callback(done)
        return wrapped

    def close(self) -> None:
        if self._workers is not None:
            self._workers.shutdown(wait=True)
            self._workers = None
        super().close()
