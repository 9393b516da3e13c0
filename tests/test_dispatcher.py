"""The thread of a call's callbacks."""

from __future__ import annotations

import threading

import pytest

from tests.call_line import Call
from voice_runtime.dispatcher import Dispatcher
from voice_runtime.testing.clock import VirtualClock


def test_in_order_one_at_a_time_on_its_own_thread() -> None:
    """Also while one of them waits."""
    with VirtualClock() as clock:
        dispatcher = Dispatcher(clock, "callbacks of a call")
        seen: list[tuple[int, str, float]] = []

        def callback(n: int) -> None:
            clock.sleep(1)
            seen.append((n, threading.current_thread().name, clock.monotonic()))

        for n in range(3):
            dispatcher.submit(lambda n=n: callback(n))  # type: ignore[misc]
        clock.sleep(10)
        assert seen == [(n, "callbacks of a call", n + 1.0) for n in range(3)]
        dispatcher.close()


def test_no_thread_without_a_callback() -> None:
    """A call that needs none has none."""
    with VirtualClock() as clock:
        dispatcher = Dispatcher(clock, "idle")
        dispatcher.close()
        assert dispatcher.thread is None


def test_close_runs_what_was_given_and_drops_what_comes() -> None:
    """The thread ends by itself."""
    with VirtualClock() as clock:
        dispatcher = Dispatcher(clock, "closing")
        seen: list[int] = []
        dispatcher.submit(lambda: clock.sleep(5))
        dispatcher.submit(lambda: seen.append(1))
        dispatcher.close()
        dispatcher.close()
        dispatcher.submit(lambda: seen.append(2))
        clock.sleep(6)
        assert seen == [1]
        assert dispatcher.thread is not None
        dispatcher.thread.join(1)
        assert not dispatcher.thread.is_alive()


def test_a_failing_callback_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    """The handler's exception names the call."""
    with VirtualClock() as clock:
        dispatcher = Dispatcher(clock, "call CA1")
        seen: list[int] = []
        dispatcher.submit(lambda: 1 // 0)
        dispatcher.submit(lambda: seen.append(1))
        clock.sleep(1)
        dispatcher.close()
        assert seen == [1]
        assert "call CA1" in caplog.text
        caplog.clear()


def test_many_threads_start_one_thread() -> None:
    """The first callbacks may come at the same time."""
    with VirtualClock() as clock:
        for _ in range(50):
            dispatcher = Dispatcher(clock, "once")
            names: list[int] = []
            calls = [
                Call(clock, lambda: dispatcher.submit(lambda: names.append(threading.get_ident())))  # noqa: B023
                for _ in range(4)
            ]
            for call in calls:
                call.join()
            clock.sleep(0.1)
            dispatcher.close()
            assert len(names) == 4
            assert len(set(names)) == 1
