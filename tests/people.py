"""What simulated people say: espeak-ng's voice, and human prompts from Debian's packages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from voice_runtime.audio.wav import read_ulaw
from voice_runtime.testing.phone import FakeCall
from voice_runtime.testing.speech import spoken

PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def answering(*sentences: str, after_ms: float = 400) -> Callable[[FakeCall], None]:
    """A person who lets the other end speak, then says the next sentence."""

    def person(call: FakeCall) -> None:
        for sentence in sentences:
            call.wait_turn(after_ms)
            call.says(spoken(sentence))

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
