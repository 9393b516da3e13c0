"""Twilio's playback buffer: what is heard when, and when marks come back."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.transports.twilio_playback import (
    CAPACITY_BYTES,
    MarkEcho,
    Overflow,
    PlaybackBuffer,
    PlaybackEvent,
    Played,
)

# name -> operations [ms, kind, bytes or name], echoes [ms, name]
TIMELINES: dict[str, tuple[list[tuple[Any, ...]], list[tuple[float, str]]]] = {
    "one second, then a mark": ([(0, "media", 8000), (0, "mark", "a")], [(1000, "a")]),
    "marks between audio": (
        [(0, "media", 1600), (0, "mark", "m1"), (0, "media", 4000), (0, "mark", "m2"), (0, "mark", "m3")],
        [(200, "m1"), (700, "m2"), (700, "m3")],
    ),
    "a leading mark comes back at once": (
        [(0, "mark", "begin"), (0, "media", 800), (0, "mark", "end")],
        [(0, "begin"), (100, "end")],
    ),
    "late audio starts a fresh run": ([(0, "media", 160), (100, "media", 160), (100, "mark", "z")], [(120, "z")]),
    "a clear sends pending marks back in order": (
        [(0, "media", 8000), (0, "mark", "p1"), (0, "media", 8000), (0, "mark", "p2"), (500, "clear")],
        [(500, "p1"), (500, "p2")],
    ),
    "audio after a clear plays from the clear on": (
        [(0, "media", 80000), (0, "mark", "old"), (1000, "clear"), (1000, "media", 800), (1000, "mark", "new")],
        [(1000, "old"), (1100, "new")],
    ),
    "a clear on an idle buffer sends nothing": ([(0, "clear")], []),
    "audio that arrives after a clear is played, wanted or not": (
        [(0, "media", 8000), (200, "clear"), (210, "media", 160), (210, "mark", "stale")],
        [(230, "stale")],
    ),
    "marks of one name come back one by one": (
        [(0, "media", 160), (0, "mark", "r"), (0, "media", 160), (0, "mark", "r")],
        [(20, "r"), (40, "r")],
    ),
    "audio that arrives while playing extends the run": (
        [(0, "media", 800), (50, "media", 800), (50, "mark", "e")],
        [(200, "e")],
    ),
}


def run(buffer: PlaybackBuffer, operations: list[tuple[Any, ...]], until_ms: float = 1e9) -> list[PlaybackEvent]:
    events: list[PlaybackEvent] = []
    for at_ms, kind, *argument in operations:
        if kind == "media":
            buffer.media(b"\x55" * argument[0], at_ms)
        elif kind == "mark":
            buffer.mark(argument[0], at_ms)
        else:
            buffer.clear(at_ms)
        events += buffer.advance(at_ms)
    return events + buffer.advance(until_ms)


@pytest.mark.parametrize("name", TIMELINES)
def test_marks_come_back_when_twilio_sends_them(name: str) -> None:
    """A mark returns at the exact millisecond at which the audio before it ends, or is cleared."""
    operations, echoes = TIMELINES[name]
    events = run(PlaybackBuffer(), operations)
    assert [(event.at_ms, event.name) for event in events if isinstance(event, MarkEcho)] == echoes


def test_a_flushed_mark_says_so() -> None:
    """The mark whose audio was played is not flushed, the mark whose audio was cleared is."""
    events = run(
        PlaybackBuffer(),
        [(0, "media", 160), (0, "mark", "heard"), (0, "media", 160), (0, "mark", "cut"), (30, "clear")],
    )
    assert [(e.name, e.flushed) for e in events if isinstance(e, MarkEcho)] == [("heard", False), ("cut", True)]


def test_what_was_heard_ends_at_the_clear() -> None:
    """Of a second of audio, 300 ms are heard when the clear comes after 300 ms."""
    buffer = PlaybackBuffer()
    buffer.media(bytes(range(250)) * 32, 0)
    assert buffer.clear(300) == 8000 - 2400
    events = buffer.advance(300)
    assert events == [Played(0, (bytes(range(250)) * 32)[:2400])]
    assert buffer.cleared_bytes == 5600
    assert buffer.queued_bytes == 0


def test_ten_minutes_fit_and_the_rest_is_dropped_with_one_warning() -> None:
    """The byte after ten minutes is dropped; the warning comes once."""
    buffer = PlaybackBuffer()
    buffer.media(bytes(CAPACITY_BYTES), 0)
    buffer.media(bytes(100), 0)
    buffer.media(bytes(100), 0)
    buffer.mark("end", 0)
    events = buffer.advance(0)
    assert events == [Overflow(0, 100)]
    assert buffer.dropped_bytes == 200
    assert buffer.next_event_ms() == 600_000
    assert MarkEcho(600_000, "end") in buffer.advance(600_000)


def test_the_next_event_is_known_in_advance() -> None:
    """next_event_ms() names the time of the first queued mark, exactly, while audio before it plays."""
    buffer = PlaybackBuffer()
    assert buffer.next_event_ms() is None
    buffer.media(bytes(1601), 10)
    assert buffer.next_event_ms() is None
    buffer.mark("m", 20)
    assert buffer.next_event_ms() == 10 + 1601 / 8
    buffer.advance(100)
    assert buffer.next_event_ms() == 10 + 1601 / 8
    assert buffer.advance(210)[-1:] != [MarkEcho(10 + 1601 / 8, "m")]
    assert buffer.advance(10 + 1601 / 8)[-1] == MarkEcho(10 + 1601 / 8, "m")


def test_time_that_goes_back_is_refused() -> None:
    """A caller that mixes clocks hears of it."""
    buffer = PlaybackBuffer()
    buffer.media(b"\xff", 10)
    with pytest.raises(ValueError, match="time went back"):
        buffer.advance(9)


@given(
    chunks=st.lists(st.tuples(st.floats(0, 200), st.integers(1, 2000)), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
)
def test_every_byte_is_heard_once_in_order_at_eight_a_millisecond(chunks: list[tuple[float, int]], seed: int) -> None:
    """However it arrives and however often one looks, all audio is heard in order and never too fast."""
    draw = random.Random(seed)
    buffer = PlaybackBuffer()
    sent = b""
    heard: list[Played] = []
    now = 0.0
    for wait_ms, size in chunks:
        for _ in range(draw.randrange(3)):
            now += wait_ms / 3
            heard += [e for e in buffer.advance(now) if isinstance(e, Played)]
        data = draw.randbytes(size)
        sent += data
        buffer.media(data, now)
    heard += [e for e in buffer.advance(now + 1e6) if isinstance(e, Played)]
    assert b"".join(piece.data for piece in heard) == sent
    for before, after in itertools.pairwise(heard):
        assert after.at_ms >= before.at_ms + len(before.data) / 8 - 1e-6
