"""What the package ``voice_runtime.audio`` hands out, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import voice_runtime.audio as audio

PUBLISHED = """
import sys
from voice_runtime.audio import {names}
print(sorted(m for m in ("numpy", "audioop", "asyncio", "subprocess") if m in sys.modules))
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_importing_the_package_imports_nothing() -> None:
    """The package itself loads no module of its own and none of numpy."""
    code = "import sys, voice_runtime.audio\nprint([m for m in sys.modules if 'audio' in m or m == 'numpy'])"
    assert run(code).strip() == "['voice_runtime.audio']"


def test_recording_needs_no_numpy() -> None:
    """The mixer, the codec, the levels and the WAV reader load without numpy."""
    assert "numpy" not in run(
        PUBLISHED.format(names="AudioMixer, mix_frames, ulaw_to_pcm16, rms_dbfs, read_ulaw, UlawWavWriter, Framer")
    )


def test_importing_warns_of_nothing() -> None:
    """With every warning an error, each name can still be imported, on every Python."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", "import voice_runtime.audio as a\nfor n in a.__all__: getattr(a, n)"],
        check=True,
        timeout=60,
    )


def test_every_promised_name_exists() -> None:
    """All of ``__all__`` resolves, is listed by ``dir()``, and nothing else is handed out."""
    for name in audio.__all__:
        assert getattr(audio, name) is not None
        assert name in dir(audio)
    with pytest.raises(AttributeError, match="no attribute 'Mixer'"):
        _ = audio.Mixer


def test_published_constants() -> None:
    """The documented constants have their documented values."""
    assert audio.FRAME_BYTES == 160
    assert audio.FRAME_INTERVAL == 0.020
    assert audio.MAX_FRAMES == 400
    assert audio.SILENCE_FRAME == b"\xff" * 160
    assert audio.CATCHUP_LIMIT == 0.1
