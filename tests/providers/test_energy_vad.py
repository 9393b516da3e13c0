"""Speech by loudness."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from voice_runtime.audio.g711 import pcm16_to_ulaw
from voice_runtime.events import SpeechEnded, SpeechStarted
from voice_runtime.providers.energy_vad import EnergyVad
from voice_runtime.vad import SpeechSegmenter


def noise(ms: int, db: float, seed: int = 1) -> bytes:
    """White noise at a level (dB of full scale)."""
    samples = np.random.default_rng(seed).normal(0, 32768 * 10 ** (db / 20), ms * 8)
    return pcm16_to_ulaw(np.clip(samples, -32768, 32767).astype("<i2").tobytes())


def probabilities(detector: EnergyVad, audio: bytes) -> list[float]:
    return [detector.process(audio[at : at + 160]) for at in range(0, len(audio) - 159, 160)]


def test_human_speech_is_found_in_silence(prompt: Callable[[str], bytes]) -> None:
    """A prompt between two seconds of silence is found within 100 ms at either end."""
    speech = prompt("vm-goodbye")
    detector, segmenter = EnergyVad(), SpeechSegmenter()
    events = [segmenter.push(p) for p in probabilities(detector, b"\xff" * 16000 + speech + b"\xff" * 16000)]
    found = [event for event in events if event is not None]
    assert [type(event) for event in found] == [SpeechStarted, SpeechEnded]
    assert 2000 <= found[0].at_ms <= 2100
    assert found[1].at_ms <= 2020 + len(speech) / 8


def test_it_gets_used_to_noise() -> None:
    """Steady noise is speech for the three seconds it takes to learn it, and then no more; louder speech still is."""
    detector = EnergyVad()
    steady = probabilities(detector, noise(6000, -35))
    assert max(steady[160:]) < 0.5
    assert min(probabilities(detector, noise(200, -20, seed=2))) > 0.9


@pytest.mark.parametrize("db", [-75, -60, -52])
def test_comfort_noise_is_no_speech(db: float) -> None:
    """The quiet noise of a line never is speech, also right after digital silence."""
    detector = EnergyVad()
    assert max(probabilities(detector, b"\xff" * 8000 + noise(3000, db))) < 0.5


def test_the_threshold_is_where_it_says() -> None:
    """At the floor plus threshold_db the probability is one half."""
    detector = EnergyVad(threshold_db=20)
    probabilities(detector, noise(4000, -50))
    assert detector.floor_db == pytest.approx(-50, abs=1.5)
    level = detector.floor_db + 20
    assert probabilities(detector, noise(20, level))[0] == pytest.approx(0.5, abs=0.25)


def test_reset_forgets_the_line() -> None:
    """After reset the noise of the last call is unknown again."""
    detector = EnergyVad()
    first = probabilities(detector, noise(2000, -30))
    detector.reset()
    assert probabilities(detector, noise(2000, -30)) == first


@pytest.mark.parametrize("size", [0, 159, 161, 320])
def test_frames_have_one_size(size: int) -> None:
    """Anything but 160 bytes is refused."""
    with pytest.raises(ValueError, match=f"160 bytes.*not {size}"):
        EnergyVad().process(b"\xff" * size)


def test_any_bytes_give_a_probability() -> None:
    """Whatever the line brings, the answer lies between 0 and 1."""
    source, detector = random.Random(1), EnergyVad()
    assert all(0 <= p <= 1 for p in probabilities(detector, source.randbytes(160 * 200)))
