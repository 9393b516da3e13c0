"""Speech for the providers' tests: recorded prompts, and voices made on the spot. All μ-law at 8 kHz."""

from __future__ import annotations

import os
import shutil
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from voice_runtime.audio.g711 import pcm16_to_ulaw
from voice_runtime.audio.resample import Resampler

PROMPTS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")


def _missing(what: str, package: str) -> None:
    if not os.environ.get("CI"):
        pytest.skip(f"{what} is missing: apt-get install {package}")


def _read(path: Path) -> bytes:
    with wave.open(str(path), "rb") as file:
        assert (file.getsampwidth(), file.getnchannels()) == (2, 1)
        resampler = Resampler(file.getframerate(), 8000)
        return pcm16_to_ulaw(resampler.process(file.readframes(file.getnframes())) + resampler.flush())


@pytest.fixture
def prompt() -> Callable[[str], bytes]:
    """A recorded human prompt by its name, for example "digits/4"."""

    def find(name: str) -> bytes:
        path = PROMPTS / f"{name}.wav"
        if not path.exists():
            _missing("recorded speech", "asterisk-core-sounds-en-wav")
        with wave.open(str(path), "rb") as file:
            return pcm16_to_ulaw(file.readframes(file.getnframes()))

    return find


@pytest.fixture
def flite(tmp_path: Path) -> Callable[..., bytes]:
    """A text in one of the voices of flite: slt, rms, awb."""

    def speak(text: str, voice: str = "slt") -> bytes:
        program = shutil.which("flite")
        if program is None:
            _missing("the speech synthesiser flite", "flite")
        path = tmp_path / "speech.wav"
        subprocess.run([program or "flite", "-voice", voice, "-t", text, "-o", str(path)], check=True)
        return _read(path)

    return speak
