"""The one door between a call's threads and the event loop.

Call code blocks in threads; the wire lives on the loop. Here they meet: one lock over the call's state, one condition
on which every blocking verb waits, one queue of jobs for the loop with one wake-up for a burst. A verb that would
block the loop's own thread is refused.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from .clock import Clock
from .exceptions import NotConnectedError, WrongThreadError

__all__ = ["Bridge", "refuse_on_event_loop"]

log = logging.getLogger(__name__)

T = TypeVar("T")


def refuse_on_event_loop(verb: str) -> None:
    """Raise :class:`WrongThreadError` when an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise WrongThreadError(verb)


class Bridge:
    """``lock`` guards the call's state; hold it only for moments. ``condition`` is notified at each change."""

    __slots__ = (
        "_diversion",
        "_ending",
        "_jobs",
        "_seen_through",
        "_tasks",
        "_woken",
        "clock",
        "condition",
        "ended",
        "lock",
        "loop",
    )

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.condition = clock.condition(self.lock)
        self.ended: str = ""
        """Why the call is over; empty while it is not. Every blocking verb looks at it."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._diversion: tuple[int, Exception] | None = None
        self._seen_through = 0
        self._jobs: deque[Callable[[], None]] = deque()
        self._woken = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ending: set[asyncio.Task[Any]] = set()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop that carries the wire. Jobs given before run as soon as it does."""
        self.loop = loop
        if self._jobs:
            self._wake()

    # -- towards the loop -----------------------------------------------------------------------------------------

    def call_soon(self, job: Callable[[], None]) -> None:
        """Run ``job`` on the loop, in order, from any thread. Without a loop yet it waits for one."""
        self._jobs.append(job)
        if not self._woken:
            self._wake()

    def _wake(self) -> None:
        loop = self.loop
        if loop is None:
            return
        self._woken = True
        try:
            loop.call_soon_threadsafe(self._run_jobs)
        except RuntimeError:  # the loop is closed: the call is over and nobody is left to do the job
            self._jobs.clear()
            self._woken = False

    def _run_jobs(self) -> None:
        # Cleared first: a job that is appended while these run either is seen below or wakes the loop again.
        self._woken = False
        jobs = self._jobs
        while jobs:
            job = jobs.popleft()
            try:
                job()
            except Exception:
                log.exception("A job handed to the event loop failed")

    def spawn(self, coroutine: Coroutine[Any, Any, T], *, ends_itself: bool = False) -> asyncio.Task[T]:
        """Start a task that ends with the call. On the loop's thread only.

        Args:
            ends_itself: it is letting go of something: waited for at the end of the call, and not cancelled.
        """
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        if ends_itself:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        task.add_done_callback(self._tasks.discard)
        return task

    def start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> concurrent.futures.Future[T]:
        """Start a coroutine on the loop from a call's thread. Its future notifies the condition when done;
        cancelling the future cancels the task."""
        if self.loop is None:
            raise NotConnectedError(
                "The session has no event loop yet: the call is not connected. Wait for it with "
                "wait_for_ws_connect(), or give the session to a server first."
            )
        future: concurrent.futures.Future[T] = concurrent.futures.Future()

        def begin() -> None:
            if future.cancelled():
                return
            task = self.spawn(make())

            def finished(task: asyncio.Task[T]) -> None:
                try:
                    if task.cancelled():
                        future.cancel()
                    elif (error := task.exception()) is not None:
                        future.set_exception(error)
                    else:
                        future.set_result(task.result())
                except concurrent.futures.InvalidStateError:
                    pass  # cancelled by whoever waited
                self.notify()

            def cancelled(future: concurrent.futures.Future[T]) -> None:
                if future.cancelled() and not task.done():
                    self.call_soon(lambda: None if task.done() else _cancel(task))

            task.add_done_callback(finished)
            future.add_done_callback(cancelled)

        self.call_soon(begin)
        return future

    def cancel_tasks(self) -> list[asyncio.Task[Any]]:
        """Cancel what the call still runs on the loop; returns the tasks so that they can be awaited."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            if task not in self._ending:
                task.cancel()
        return tasks

    # -- towards the threads --------------------------------------------------------------------------------------

    def notify(self) -> None:
        """Something changed: let every waiting verb look again."""
        with self.lock:
            self.condition.notify_all()

    def wait_until(self, predicate: Callable[[], Any], timeout: float | None) -> bool:
        """Block the calling thread until ``predicate`` holds (it is called with the lock held); False on expiry
        (seconds)."""
        with self.lock:
            return self.wait(predicate, timeout)

    def wait(self, predicate: Callable[[], Any], timeout: float | None) -> bool:
        """As :meth:`wait_until`, for who holds the lock already."""
        diverted = self._is_diverted
        reached = bool(self.condition.wait_for(lambda: predicate() or diverted(), timeout))
        self.raise_if_diverted()
        return reached

    def divert(self, thread: int, error: Exception) -> None:
        """Have ``error`` raised out of whatever that thread waits for, now and from now on."""
        with self.lock:
            self._diversion = (thread, error)
            self.condition.notify_all()

    def end_diversion(self) -> bool:
        """The thread has arrived where it was diverted to; whether it had been diverted."""
        with self.lock:
            was, self._diversion = self._diversion is not None, None
            return was

    @contextlib.contextmanager
    def undiverted(self) -> Iterator[None]:
        """Within, a diversion waits: what is under way has to be seen through."""
        self._seen_through += 1
        try:
            yield
        finally:
            self._seen_through -= 1

    def raise_if_diverted(self) -> None:
        """Raise what this thread was diverted with, where it was."""
        if self._is_diverted():
            assert self._diversion is not None
            raise self._diversion[1]

    def _is_diverted(self) -> bool:
        diversion = self._diversion
        return diversion is not None and not self._seen_through and diversion[0] == threading.get_ident()


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
