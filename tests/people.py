"""What simulated people say: espeak-ng's voice, and human prompts from Debian's packages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from voice_runtime.audio.g711 import ulaw_to_pcm16
from voice_runtime.audio.wav import read_ulaw
from voice_runtime.testing.phone import FakeCall
from voice_runtime.testing.speech import spoken
from voice_runtime.turns.key_entry import KEYS

PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def answering(*sentences: str, after_ms: float = 400) -> Callable[[FakeCall], None]:
    """A person who lets the other end speak, then says the next sentence."""

    def person(call: FakeCall) -> None:
        for sentence in sentences:
            call.wait_turn(after_ms)
            call.says(spoken(sentence))

    return person


def where_said(sentence: str, audio: bytes) -> int:
    """Where in this audio espeak's voice has finished the sentence for the first time (a byte of it), or -1.

    The voice never says a sentence twice to the sample, so spectra are compared: the same sentence correlates to 0.93
    and more, one that shares half its words to less than 0.9.
    """
    wanted = _spectra(spoken(sentence))
    wanted = wanted - wanted.mean()
    length = len(wanted)
    heard = _spectra(audio + b"\xff" * 800)
    if len(heard) < length:
        return -1
    product = sum(np.correlate(heard[:, band], wanted[:, band], "valid") for band in range(_BANDS))
    totals = [np.cumsum(np.pad(values, (1, 0))) for values in (heard.sum(1), (heard**2).sum(1))]
    sums, squares = (total[length:] - total[:-length] for total in totals)
    spread = np.sqrt(np.maximum(squares - sums**2 / (length * _BANDS), 1e-9))
    likeness = product / (spread * np.linalg.norm(wanted))
    places = np.flatnonzero(likeness > 0.9)
    if not places.size:
        return -1
    best = int(places[0] + np.argmax(likeness[places[0] : places[0] + 20]))
    return min(len(audio), best * _HOP + len(spoken(sentence)))


_HOP, _BANDS = 80, 16  # 10 ms; of 250 Hz each
_SMOOTH = np.array([1, 3, 4, 3, 1]) / 12


def _spectra(ulaw: bytes) -> Any:
    """The logarithm of the power, by time and band; smooth, lest milliseconds matter."""
    samples = np.pad(np.frombuffer(ulaw_to_pcm16(ulaw), np.int16).astype(np.float32), (0, 256))
    frames = np.lib.stride_tricks.sliding_window_view(samples, 256)[::_HOP] * np.hanning(256)
    power = (np.abs(np.fft.rfft(frames)) ** 2)[:, :128].reshape(-1, _BANDS, 8).sum(2)
    padded = np.pad(np.log10(power + 1e4), ((2, 2), (0, 0)), "edge")
    return sum(weight * padded[shift : shift + len(power)] for shift, weight in enumerate(_SMOOTH))


def has_heard(call: FakeCall, *sentences: str) -> bool:
    """Whether the far end has heard these sentences of espeak's, one after the other."""
    rest = call.heard.heard_ulaw()
    for sentence in sentences:
        at = where_said(sentence, rest)
        if at < 0:
            return False
        rest = rest[at - 800 :]
    return True


def listening(call: FakeCall, sentence: str, after: int = 0, timeout: float = 40) -> int:
    """Wait until the far end has heard this sentence of espeak's.

    Args:
        after: not what was heard before this byte of all that was heard.

    Returns:
        The byte at which it ended.
    """
    deadline_ms = call.now_ms() + timeout * 1000
    while call.now_ms() < deadline_ms:
        audio = call.heard.heard_ulaw()
        at = where_said(sentence, audio[after:])
        if at >= 0:
            return after + at
        after = max(after, len(audio) - len(spoken(sentence)) - 1600)
        call.sleep(0.2)
    raise AssertionError(f"expected to hear {sentence!r} within {timeout:g} s")


def conversation(*turns: tuple[str, str]) -> Callable[[FakeCall], None]:
    """A person who waits for the first sentence of each pair and answers with the second: says it, or presses it when
    it consists of keys."""

    def person(call: FakeCall) -> None:
        at = 0
        for question, answer in turns:
            at = listening(call, question, at)
            call.sleep(0.3)  # or the key would cut the last sound of the question
            if all(key in KEYS for key in answer):
                call.press(answer)
            else:
                call.says(spoken(answer))

    return person


def human(name: str) -> bytes:
    """A prompt of Debian's asterisk-core-sounds-en-wav, as μ-law; skips the test where it is not installed."""
    path = PROMPTS / f"{name}.wav"
    if not path.exists():
        message = f"{path} is not installed (package asterisk-core-sounds-en-wav)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return read_ulaw(path)
