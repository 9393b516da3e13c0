"""Sound by the number of its samples: what is said, played, heard and mixed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from voice_runtime.audio.g711 import pcm16_to_ulaw, ulaw_to_pcm16
from voice_runtime.audio.mixer import mix_frames
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio_sound import (
    AttentiveMouth,
    Clip,
    DistantMouth,
    HeardSamples,
    Piece,
    SoundPath,
    beep,
    now_samples,
    overlay,
)

from .leg_app import speech

SPEECH = speech(1, 100)  # 800 samples


def run(work: Coroutine[Any, Any, None]) -> None:
    """On a loop in virtual time."""
    with VirtualClock() as clock:
        loop = clock.new_event_loop()
        thread = clock.start_thread(loop.run_forever, "loop")
        done = clock.event()
        future = asyncio.run_coroutine_threadsafe(work, loop)
        future.add_done_callback(lambda _: done.set())
        done.wait()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        future.result()


def test_a_mouth_tells_what_it_says_when() -> None:
    """Cut to the interval; silence is left out."""

    async def work() -> None:
        mouth = AttentiveMouth()
        begin = now_samples()
        mouth.say(SPEECH)
        await asyncio.sleep(0.3)
        again = now_samples()
        mouth.say(SPEECH)
        await asyncio.sleep(0.2)
        assert mouth.pieces(begin, now_samples()) == [Piece(begin, SPEECH), Piece(again, SPEECH)]
        assert mouth.pieces(begin + 100, begin + 300) == [Piece(begin + 100, SPEECH[100:300])]
        assert mouth.pieces(begin + 800, again) == []

    run(work())


def test_what_was_heard_comes_back_by_its_samples() -> None:
    """Pieces that follow each other are one; gaps stay gaps."""

    async def work() -> None:
        heard = HeardSamples(asyncio.get_running_loop().time() - 0.0123)
        heard.put(Piece(1000, SPEECH[:300]))
        heard.put(Piece(1300, SPEECH[300:]))
        heard.put(Piece(2000, SPEECH))
        assert heard.pieces(0, 9000) == [Piece(1000, SPEECH), Piece(2000, SPEECH)]
        assert heard.pieces(1500, 2100) == [Piece(1500, SPEECH[500:]), Piece(2000, SPEECH[:100])]
        assert heard.pieces(1800, 2000) == []

    run(work())


@pytest.mark.parametrize(("begin", "end"), [(0, 5000), (150, 170), (950, 1050), (99, 100), (3000, 4000)])
def test_a_clip_repeats(begin: int, end: int) -> None:
    """As often as it says, from its beginning, cut to the interval."""
    clip = Clip(100, SPEECH[:100], times=12)
    whole = b"\xff" * 100 + SPEECH[:100] * 12 + b"\xff" * 8000
    found = bytearray(b"\xff" * (end - begin))
    for at, ulaw in clip.pieces(begin, end):
        found[at - begin : at - begin + len(ulaw)] = ulaw
    assert found == whole[begin:end]
    assert Clip(0, b"", times=None).pieces(0, 100) == []
    assert sum(len(ulaw) for _, ulaw in Clip(0, SPEECH, times=None).pieces(10_000, 20_000)) == 10_000


def test_a_path_carries_what_sounds_while_it_is_there() -> None:
    """From its beginning to the last sync, sample for sample, however often it is synced."""

    async def work() -> None:
        mouth, heard = AttentiveMouth(), HeardSamples(asyncio.get_running_loop().time())
        mouth.say(SPEECH)
        await asyncio.sleep(0.025)
        path = SoundPath(mouth, heard)
        for pause in (0.0, 0.01, 0.0333, 0.007):
            await asyncio.sleep(pause)
            path.sync()
        assert heard.heard_ulaw() == SPEECH[200 : 200 + round(0.0503 * 8000)]
        assert len(heard.spans) == 1

    run(work())


def test_a_distant_mouth_is_what_another_hears() -> None:
    """For frames and for pieces, a millisecond later; it asks for the latest first, and is nobody who could speak."""

    async def work() -> None:
        heard = HeardSamples(asyncio.get_running_loop().time())
        mouth = DistantMouth(heard, lambda: heard.put(Piece(100, SPEECH)) if not heard.heard_bytes() else None, "CA1")
        assert mouth.read(60, 160) == b"\xff" * 48 + SPEECH[:112]
        assert mouth.read(5000, 160) == b""
        assert mouth.pieces(0, 150) == [Piece(108, SPEECH[:42])]
        with pytest.raises(RuntimeError, match="CA1"):
            mouth.say(SPEECH)

    run(work())


def test_overlays() -> None:
    """Where only one sounds it stays as it is; where several do they are added and clipped."""
    one, two, three = speech(1, 10), speech(2, 10), speech(3, 10)
    assert overlay([]) == overlay([[], []]) == []
    assert overlay([[Piece(5, one)], []]) == [Piece(5, one)]
    assert overlay([[Piece(5, one)], [Piece(85, two)]]) == [Piece(5, one), Piece(85, two)]
    assert overlay([[Piece(0, one)], [Piece(40, two)]]) == [Piece(0, mix_frames(one, b"\xff" * 40 + two))]
    total = overlay([[Piece(0, one)], [Piece(0, two)], [Piece(0, three)]])
    expected = bytearray()
    for samples in zip(*(memoryview(ulaw_to_pcm16(part)).cast("h") for part in (one, two, three)), strict=True):
        clipped = max(-32768, min(32767, sum(samples)))
        expected += pcm16_to_ulaw(clipped.to_bytes(2, "little", signed=True))
    assert total == [Piece(0, bytes(expected))]


def test_the_beep() -> None:
    """1 kHz: it repeats every 8 samples, as long as it is meant to be."""
    tone = beep(500)
    assert len(tone) == 4000
    assert tone[:8] * 500 == tone
    assert beep(0) == b""
