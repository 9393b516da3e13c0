"""The clock of a stream: when a message was sent, judged by the media around it."""

from __future__ import annotations

import pytest

from voice_runtime.leg import StreamClock


def feed(clock: StreamClock, frames: int, *, start: int = 0, delay_ms: float = 30, drift_ppm: float = 0) -> float:
    """Frames on schedule; returns the arrival of the last."""
    now = 0.0
    for n in range(start, start + frames):
        now = 1000 + n * 20 * (1 + drift_ppm * 1e-6) + delay_ms
        clock.media(102 + n * 20, now)
    return now


def test_without_media_arrival_is_all_there_is() -> None:
    """Nothing to judge by."""
    assert StreamClock().sent_at(123.0) == 123.0


def test_in_a_steady_stream_arrival_is_right() -> None:
    """A message between two frames was sent when it arrived."""
    clock = StreamClock()
    now = feed(clock, 100)
    assert clock.sent_at(now + 7) == now + 7


@pytest.mark.parametrize("stall_ms", [121, 300, 900])
def test_after_a_stall_the_newest_frame_dates_the_message(stall_ms: float) -> None:
    """We stood still; the message that waited with the frames is dated to within one frame."""
    clock = StreamClock()
    now = feed(clock, 100)
    for n in range(100, 105):
        clock.media(102 + n * 20, now + stall_ms)
    sent = clock.sent_at(now + stall_ms)
    assert now + 100 <= sent <= now + 100 + 21


def test_one_fast_frame_sets_the_distance() -> None:
    """The frame with the least delay shows how the clocks stand."""
    clock = StreamClock()
    feed(clock, 50, delay_ms=80)
    feed(clock, 1, start=50, delay_ms=10)
    clock.media(102 + 51 * 20, 1000 + 51 * 20 + 80)
    assert clock.sent_at(1000 + 51 * 20 + 80) == pytest.approx(1000 + 51 * 20 + 30, abs=0.1)


@pytest.mark.parametrize("drift_ppm", [-150, 150])
def test_clocks_that_drift_apart_are_followed(drift_ppm: float) -> None:
    """After an hour the dating is still right."""
    clock = StreamClock()
    now = feed(clock, 180_000, drift_ppm=drift_ppm)
    assert clock.sent_at(now + 5) == pytest.approx(now + 5, abs=1)


@pytest.mark.parametrize("gap_ms", [60, 300, 900])
def test_a_gap_in_the_media_is_not_our_lateness(gap_ms: float) -> None:
    """Frames are missing, the message is not late: it was sent when it came."""
    clock = StreamClock()
    now = feed(clock, 100)
    assert clock.sent_at(now + gap_ms) == now + gap_ms


def test_when_no_media_has_come_for_long_arrival_counts() -> None:
    """A gap in the media says nothing about the message behind it."""
    clock = StreamClock()
    now = feed(clock, 10)
    assert clock.sent_at(now + 5000) == now + 5000
