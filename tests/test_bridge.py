"""The one door between threads and the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.call_line import Call, LoopThread
from voice_runtime.bridge import Bridge, refuse_on_event_loop
from voice_runtime.exceptions import NotConnectedError, WrongThreadError
from voice_runtime.testing.clock import VirtualClock


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    with VirtualClock() as clock:
        thread = LoopThread(clock)
        yield thread
        thread.close()


def make(loop: LoopThread) -> Bridge:
    bridge = Bridge(loop.clock)
    bridge.attach(loop.loop)
    return bridge


def test_jobs_run_in_order_from_many_threads(loop: LoopThread) -> None:
    """Each thread's jobs keep their order; none is lost."""
    bridge = make(loop)
    seen: list[tuple[int, int]] = []

    def work(who: int) -> None:
        for n in range(200):
            bridge.call_soon(lambda n=n: seen.append((who, n)))  # type: ignore[misc]

    for call in [Call(loop.clock, lambda who=who: work(who)) for who in range(8)]:  # type: ignore[misc]
        call.join()
    loop.clock.sleep(0.1)
    assert len(seen) == 1600
    assert all([n for who, n in seen if who == one] == list(range(200)) for one in range(8))


def test_a_burst_wakes_the_loop_once(loop: LoopThread) -> None:
    """That is what makes a frame cheap."""
    bridge = make(loop)
    wakes: list[Any] = []
    original = loop.loop.call_soon_threadsafe

    def counting(callback: Any, *args: Any, **kwargs: Any) -> Any:
        wakes.append(callback)
        return original(callback, *args, **kwargs)

    loop.loop.call_soon_threadsafe = counting  # type: ignore[assignment, method-assign]

    def burst() -> None:
        for _ in range(100):
            bridge.call_soon(lambda: None)

    loop.call(burst)  # on the loop's own thread, so that it cannot run meanwhile
    loop.clock.sleep(0.1)
    assert len([wake for wake in wakes if wake == bridge._run_jobs]) == 1


def test_jobs_before_there_is_a_loop_wait_for_it(loop: LoopThread) -> None:
    """Intents of call code may come before the call connects."""
    bridge = Bridge(loop.clock)
    seen: list[int] = []
    bridge.call_soon(lambda: seen.append(1))
    bridge.attach(loop.loop)
    loop.clock.sleep(0.1)
    assert seen == [1]


def test_a_failing_job_is_logged_and_the_next_one_runs(loop: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is swallowed, nothing else suffers."""
    bridge = make(loop)
    seen: list[int] = []
    bridge.call_soon(lambda: 1 // 0)  # type: ignore[arg-type]
    bridge.call_soon(lambda: seen.append(1))
    loop.clock.sleep(0.1)
    assert seen == [1]
    assert "ZeroDivisionError" in caplog.text
    caplog.clear()


def test_after_the_loop_is_closed_jobs_are_dropped_quietly() -> None:
    """The call is over; nobody is left to do them."""
    with VirtualClock() as clock:
        bridge = Bridge(clock)
        gone = asyncio.new_event_loop()
        gone.close()
        bridge.attach(gone)
        bridge.call_soon(lambda: None)
        bridge.call_soon(lambda: None)


def test_start_hands_over_result_and_error(loop: LoopThread) -> None:
    """A coroutine started from a thread; its future notifies whoever waits."""
    bridge = make(loop)

    async def good() -> int:
        await asyncio.sleep(2)
        return 7

    async def bad() -> None:
        raise KeyError("x")

    one, two = bridge.start(good), bridge.start(bad)
    assert bridge.wait_until(lambda: one.done() and two.done(), 5)
    assert one.result() == 7
    assert isinstance(two.exception(), KeyError)
    assert loop.clock.monotonic() == 2


def test_cancelling_the_future_cancels_the_task(loop: LoopThread) -> None:
    """Nothing goes on making what nobody wants."""
    bridge = make(loop)
    ended: list[str] = []

    async def long() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    future = bridge.start(long)
    loop.clock.sleep(1)
    future.cancel()
    loop.clock.sleep(1)
    assert ended == ["cancelled"]


def test_start_without_a_loop_says_what_is_missing() -> None:
    """The call is not connected yet."""
    with VirtualClock() as clock, pytest.raises(NotConnectedError, match="wait_for_ws_connect"):
        Bridge(clock).start(lambda: asyncio.sleep(0))


def test_waiting_wakes_on_change_and_on_expiry(loop: LoopThread) -> None:
    """True when it holds, False when the time is up, both exactly."""
    bridge = make(loop)
    box: list[int] = []
    assert not bridge.wait_until(lambda: box, 3)
    assert loop.clock.monotonic() == 3
    call = Call(loop.clock, lambda: bridge.wait_until(lambda: box, 60))
    loop.clock.sleep(1)
    with bridge.lock:
        box.append(1)
    bridge.notify()
    assert call.join() is True
    assert call.ended_at == 4


async def test_the_loops_own_thread_is_refused() -> None:
    """With advice; a plain thread is not."""
    with pytest.raises(WrongThreadError, match=r"asyncio\.to_thread\(say"):
        refuse_on_event_loop("say()")
    await asyncio.to_thread(refuse_on_event_loop, "say()")
    thread = threading.Thread(target=refuse_on_event_loop, args=("say()",))
    thread.start()
    thread.join()


class ElsewhereError(Exception):
    """What a thread is diverted with."""


class Waiting:
    """A thread that waits on the bridge again and again; ``error`` is what was raised out of a wait."""

    def __init__(self, loop: LoopThread, bridge: Bridge, *timeouts: float | None) -> None:
        self.ident: int | None = None
        self.errors: list[tuple[float, int, Exception]] = []
        self.reached: list[bool] = []

        def work() -> None:
            self.ident = threading.get_ident()
            for number, timeout in enumerate(timeouts):
                try:
                    self.reached.append(bridge.wait_until(lambda: False, timeout))
                except ElsewhereError as error:
                    self.errors.append((loop.clock.monotonic(), number, error))

        self._call = Call(loop.clock, work)
        self.join = self._call.join
        loop.clock.sleep(0.001)

    def divert(self, bridge: Bridge, error: Exception) -> None:
        assert self.ident is not None
        bridge.divert(self.ident, error)


def test_a_diversion_is_raised_out_of_the_wait_under_way(loop: LoopThread) -> None:
    """At once, that very exception, and again out of every further wait, until the thread has arrived."""
    bridge = make(loop)
    thread = Waiting(loop, bridge, None, 5)
    error = ElsewhereError("here")
    loop.clock.sleep(3)
    thread.divert(bridge, error)
    thread.join()
    assert [(round(at, 3), number, raised) for at, number, raised in thread.errors] == [
        (3.001, 0, error),
        (3.001, 1, error),
    ]
    assert bridge.end_diversion()
    assert not bridge.end_diversion()
    again = Waiting(loop, bridge, None, 5)
    loop.clock.sleep(1)
    bridge.notify()
    assert again.errors == []
    again.divert(bridge, error)
    again.join()


def test_what_is_seen_through_is_not_diverted(loop: LoopThread) -> None:
    """The diversion waits for the end of it."""
    bridge = make(loop)
    seen: list[object] = []

    def work() -> None:
        bridge.divert(threading.get_ident(), ElsewhereError())
        with bridge.undiverted():
            seen.append(bridge.wait_until(lambda: True, 0))
        try:
            bridge.wait_until(lambda: True, 0)
        except ElsewhereError as error:
            seen.append(type(error))

    Call(loop.clock, work).join()
    assert seen == [True, ElsewhereError]


def test_a_diversion_meets_the_next_wait(loop: LoopThread) -> None:
    """A thread that does not wait just now is not forgotten, however short its next wait is, and whether or not what
    it waits for is there already."""
    bridge = make(loop)
    caught: list[Exception] = []

    def work() -> None:
        bridge.divert(threading.get_ident(), ElsewhereError())
        for _ in range(2):
            try:
                bridge.wait_until(lambda: True, 0)
            except ElsewhereError as error:
                caught.append(error)

    Call(loop.clock, work).join()
    assert len(caught) == 2


def test_a_diversion_is_one_threads_own(loop: LoopThread) -> None:
    """Others wait on, for as long as they wanted."""
    bridge = make(loop)
    one, other = Waiting(loop, bridge, 10), Waiting(loop, bridge, 10)
    one.divert(bridge, ElsewhereError())
    one.join()
    other.join()
    assert [len(thread.errors) for thread in (one, other)] == [1, 0]
    assert other.reached == [False]
    assert not bridge.wait_until(lambda: False, 0)


def test_the_lock_is_free_after_a_diversion(loop: LoopThread) -> None:
    """Also where the wait was one of who holds it."""
    bridge = make(loop)
    bridge.divert(threading.get_ident(), ElsewhereError())
    with pytest.raises(ElsewhereError), bridge.lock:
        bridge.wait(lambda: False, None)
    assert bridge.lock.acquire(blocking=False)
    bridge.lock.release()
