"""Cutting a stream of bytes into frames."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice_runtime.audio.frames import (
    BYTES_PER_MS,
    FRAME_BYTES,
    FRAME_INTERVAL,
    FRAME_MS,
    SAMPLE_RATE,
    SILENCE_FRAME,
    Framer,
    bytes_to_ms,
    ms_to_bytes,
)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=700)), st.integers(1, 400))
def test_frames_do_not_depend_on_the_chunks(chunks: list[bytes], size: int) -> None:
    """However a stream is cut, the same frames come out, none early, none late, and nothing is lost."""
    framer = Framer(size)
    stream = b"".join(chunks)
    frames: list[bytes] = []
    taken = 0
    for chunk in chunks:
        frames += framer.push(chunk)
        taken += len(chunk)
        assert len(frames) == taken // size
        assert framer.pending == taken % size
    assert {len(frame) for frame in frames} <= {size}
    assert b"".join(frames) == stream[: len(stream) - len(stream) % size]
    rest = framer.flush(pad=0)
    assert rest == stream[len(stream) - len(stream) % size :].ljust(size if rest else 0, b"\0")


def test_a_flushed_frame_ends_in_silence() -> None:
    """The rest is filled up with μ-law silence, once."""
    framer = Framer()
    assert framer.push(b"\x10" * 100) == []
    assert framer.flush() == b"\x10" * 100 + b"\xff" * 60
    assert framer.flush() == b""


def test_whole_frames_pass_through() -> None:
    """Exact frames come straight back and leave nothing behind."""
    framer = Framer()
    assert framer.push(SILENCE_FRAME) == [SILENCE_FRAME]
    assert framer.push(memoryview(SILENCE_FRAME)) == [SILENCE_FRAME]  # type: ignore[arg-type]
    assert framer.pending == 0
    assert framer.flush() == b""


def test_what_is_carried_can_be_forgotten() -> None:
    """After ``clear`` the next chunk begins a frame."""
    framer = Framer(4)
    framer.push(b"abc")
    framer.clear()
    assert framer.push(b"defg") == [b"defg"]


def test_a_frame_has_a_size() -> None:
    """A frame of no bytes is refused with what came and what is usual."""
    with pytest.raises(ValueError, match=r"size=0 came.*160 bytes"):
        Framer(0)


def test_bytes_and_milliseconds() -> None:
    """8 bytes are a millisecond, both ways, to the nearest byte."""
    assert bytes_to_ms(160) == 20.0
    assert bytes_to_ms(4) == 0.5
    assert ms_to_bytes(20) == 160
    assert ms_to_bytes(0.0624) == 0
    assert ms_to_bytes(0.07) == 1
    assert (SAMPLE_RATE, BYTES_PER_MS) == (8000, 8)
    assert FRAME_BYTES == ms_to_bytes(FRAME_MS) == round(FRAME_INTERVAL * SAMPLE_RATE) == len(SILENCE_FRAME)
