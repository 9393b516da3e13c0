"""Levels and gain."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable

import pytest

from voice_runtime.audio.frames import SILENCE_FRAME
from voice_runtime.audio.g711 import pcm16_to_ulaw
from voice_runtime.audio.levels import apply_gain, is_silence, peak_dbfs, rms_dbfs


def sine(amplitude: float, count: int = 800) -> bytes:
    return struct.pack(f"={count}h", *(round(amplitude * math.sin(2 * math.pi * n / 20)) for n in range(count)))


@pytest.mark.parametrize("db", [0, -6, -20, -40, -60])
def test_a_sine_measures_what_it_was_made(db: float) -> None:
    """Peak is the amplitude and RMS is 3.01 dB less, down to -60 dBFS."""
    tone = sine(32767 * 10 ** (db / 20))
    assert peak_dbfs(tone, "pcm16") == pytest.approx(db, abs=0.15)
    assert rms_dbfs(tone, "pcm16") == pytest.approx(db - 3.01, abs=0.05)


def test_ulaw_measures_like_the_samples_it_stands_for() -> None:
    """A tone has the same level in both encodings, within the codec's error."""
    tone = sine(8000)
    assert rms_dbfs(pcm16_to_ulaw(tone)) == pytest.approx(rms_dbfs(tone, "pcm16"), abs=0.3)


def test_silence_and_nothing_are_infinitely_quiet() -> None:
    """Digital silence and no audio measure -inf and count as silence."""
    for audio in (SILENCE_FRAME, b"\x7f" * 160, b""):
        assert rms_dbfs(audio) == peak_dbfs(audio) == -math.inf
        assert is_silence(audio)


def test_the_byte_zero_is_loud() -> None:
    """μ-law 0x00 is full scale, not silence."""
    assert peak_dbfs(bytes(160)) == pytest.approx(-0.17, abs=0.01)
    assert not is_silence(bytes(160))


def test_speech_is_not_silence_and_its_pauses_are(prompt: Callable[[str], bytes]) -> None:
    """A prompt is far above the threshold; at a fiftieth of its level it is below."""
    speech = pcm16_to_ulaw(prompt("vm-goodbye"))
    assert -35 < rms_dbfs(speech) < -10
    assert not is_silence(speech)
    assert is_silence(apply_gain(speech, -40))


def test_the_most_negative_sample_is_full_scale() -> None:
    """-32,768 measures exactly 0 dBFS."""
    lowest = struct.pack("=h", -32768) * 10
    assert rms_dbfs(lowest, "pcm16") == pytest.approx(0, abs=1e-6)
    assert peak_dbfs(lowest, "pcm16") == pytest.approx(0, abs=1e-6)


def test_gain_moves_the_level() -> None:
    """Six decibels up or down measure as such, in both encodings."""
    tone = sine(6000)
    for gain in (-6.0, 6.0):
        assert rms_dbfs(apply_gain(tone, gain, "pcm16"), "pcm16") == pytest.approx(
            rms_dbfs(tone, "pcm16") + gain, abs=0.02
        )
        ulaw = pcm16_to_ulaw(tone)
        assert rms_dbfs(apply_gain(ulaw, gain)) == pytest.approx(rms_dbfs(ulaw) + gain, abs=0.3)


def test_no_gain_is_no_change() -> None:
    """0 dB returns every byte as it came."""
    assert apply_gain(bytes(range(256)), 0) == bytes(range(256))


def test_too_much_gain_clips() -> None:
    """What would pass full scale stays there and does not wrap around."""
    loud = struct.unpack("=800h", apply_gain(sine(30000), 20, "pcm16"))
    assert max(loud) == 32767
    assert min(loud) == -32768
    assert loud[1] > 0 > loud[11]


def test_wrong_input_is_named() -> None:
    """Half a sample and an unknown encoding are errors that say so."""
    for measure in (rms_dbfs, peak_dbfs, is_silence):
        with pytest.raises(ValueError, match="3 came"):
            measure(b"abc", "pcm16")
        with pytest.raises(ValueError, match="'opus' came"):
            measure(b"abcd", "opus")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 came"):
        apply_gain(b"abc", 3, "pcm16")
