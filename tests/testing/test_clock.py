"""Virtual time: it moves when everybody waits, and only then."""

from __future__ import annotations

import asyncio
import queue
import threading
import time

import pytest

from voice_runtime.clock import Clock, SystemClock
from voice_runtime.testing.clock import VirtualClock


@pytest.mark.parametrize("clock", [SystemClock(), VirtualClock()])
def test_both_clocks_have_the_same_shape(clock: Clock) -> None:
    """A clock is a clock, real or virtual."""
    assert isinstance(clock, Clock)
    clock.sleep(0.001)
    event = clock.event()
    assert not event.wait(0.001)
    event.set()
    assert event.wait(0)
    waiting = clock.queue()
    with pytest.raises(queue.Empty):
        waiting.get(timeout=0.001)
    waiting.put(1)
    assert waiting.get() == 1
    condition = clock.condition()
    with condition:
        assert not condition.wait_for(lambda: False, timeout=0.001)


def test_sleeping_takes_no_real_time() -> None:
    """An hour passes at once and exactly."""
    began = time.monotonic()
    with VirtualClock() as clock:
        clock.sleep(3600)
        assert clock.monotonic() == 3600
    assert time.monotonic() - began < 5


def test_time_stands_still_while_anybody_works() -> None:
    """A participant that computes holds the clock; the others' deadlines wait for it."""
    with VirtualClock() as clock:
        release = threading.Event()
        seen: list[float] = []

        def work() -> None:
            release.wait(10)  # outside the clock: this participant counts as busy
            seen.append(clock.monotonic())

        worker = clock.start_thread(work, "worker")
        threading.Timer(0.05, release.set).start()
        clock.sleep(10)
        worker.join()
        assert seen == [0.0]


def test_wake_up_counts_from_the_moment_it_is_given() -> None:
    """Between set() and the waiter's next step no time passes, whatever the scheduler does."""
    with VirtualClock() as clock:
        for _ in range(300):
            event = clock.event()
            woke_at: list[float] = []

            def wait(event: object = event, woke_at: list[float] = woke_at) -> None:
                event.wait(100)  # type: ignore[attr-defined]
                woke_at.append(clock.monotonic())

            thread = clock.start_thread(wait, "waiter")
            clock.sleep(1)
            now = clock.monotonic()
            event.set()
            thread.join()
            assert woke_at == [now]


def test_event_loop_and_threads_share_one_time() -> None:
    """A loop's timers and a thread's sleeps interleave in the order of their deadlines."""
    with VirtualClock() as clock:
        loop = clock.new_event_loop()
        order: list[str] = []

        async def ticks() -> None:
            for n in range(5):
                await asyncio.sleep(1)
                order.append(f"loop {n + 1}")

        def beats() -> None:
            clock.sleep(0.5)
            for n in range(5):
                order.append(f"thread {n + 0.5}")
                clock.sleep(1)

        loop_thread = clock.start_thread(lambda: loop.run_until_complete(ticks()), "loop")
        beat_thread = clock.start_thread(beats, "beats")
        loop_thread.join()
        beat_thread.join()
        loop.close()
    assert order == [x for n in range(5) for x in (f"thread {n + 0.5}", f"loop {n + 1}")]


def test_a_thread_reaches_a_waiting_loop_at_once() -> None:
    """call_soon_threadsafe wakes the loop in the same instant, a thousand times."""
    with VirtualClock() as clock:
        loop = clock.new_event_loop()
        thread = clock.start_thread(loop.run_forever, "loop")
        seen: list[tuple[float, float]] = []
        for _ in range(1000):
            clock.sleep(0.02)
            done = clock.event()
            sent = clock.monotonic()

            def ran(sent: float = sent, done: object = done) -> None:
                seen.append((sent, loop.time()))
                done.set()  # type: ignore[attr-defined]

            loop.call_soon_threadsafe(ran)
            assert done.wait(1)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert len(seen) == 1000
    assert all(sent == ran for sent, ran in seen)


async def _in_executor(clock: VirtualClock) -> list[float]:
    loop = asyncio.get_running_loop()
    times = [loop.time()]
    await loop.run_in_executor(None, time.sleep, 0.02)
    times.append(loop.time())
    await loop.run_in_executor(None, clock.sleep, 7)
    times.append(loop.time())
    return times


def test_executor_work_holds_time_but_its_waits_do_not() -> None:
    """Real work in an executor costs no virtual time; a wait on the clock there costs exactly itself."""
    with VirtualClock() as clock:
        loop = clock.new_event_loop()
        assert loop.run_until_complete(_in_executor(clock)) == [0, 0, 7]
        loop.close()
