"""Human speech for the audio tests: the telephone prompts of Debian's ``asterisk-core-sounds-en-wav``."""

from __future__ import annotations

import os
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


@pytest.fixture
def prompt_path() -> Callable[[str], Path]:
    """The WAV file of a prompt, by name: 8,000 Hz, 16 bits, one channel."""

    def find(name: str) -> Path:
        path = PROMPTS / f"{name}.wav"
        if not path.exists() and not os.environ.get("CI"):
            pytest.skip("recorded speech is missing: apt-get install asterisk-core-sounds-en-wav")
        return path

    return find


@pytest.fixture
def prompt(prompt_path: Callable[[str], Path]) -> Callable[[str], bytes]:
    """A prompt's samples as PCM16, read by the standard library's own reader."""

    def read(name: str) -> bytes:
        with wave.open(str(prompt_path(name)), "rb") as file:
            assert (file.getframerate(), file.getsampwidth(), file.getnchannels()) == (8000, 2, 1)
            return file.readframes(file.getnframes())

    return read
