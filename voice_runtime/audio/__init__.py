"""Telephone audio: the G.711 codec, frames, resampling, levels, tones, WAV files, mixing and recording.

Every name is resolved on first use, so importing this package costs nothing; numpy is imported only by
:mod:`~voice_runtime.audio.resample`, :mod:`~voice_runtime.audio.dtmf` and :mod:`~voice_runtime.audio.beep`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .beep import BeepDetector
    from .dtmf import DTMF_KEYS, DetectedKey, DtmfDetector, dtmf_tone
    from .frames import FRAME_BYTES, FRAME_INTERVAL, FRAME_MS, SILENCE_FRAME, Framer, bytes_to_ms, ms_to_bytes
    from .g711 import alaw_to_pcm16, alaw_to_ulaw, pcm16_to_alaw, pcm16_to_ulaw, ulaw_to_alaw, ulaw_to_pcm16
    from .levels import apply_gain, is_silence, peak_dbfs, rms_dbfs
    from .mixer import CATCHUP_LIMIT, MAX_FRAMES, AudioMixer, mix_frames
    from .resample import Resampler
    from .wav import AudioFormatError, UlawWavWriter, read_ulaw

__all__ = [
    "CATCHUP_LIMIT",
    "DTMF_KEYS",
    "FRAME_BYTES",
    "FRAME_INTERVAL",
    "FRAME_MS",
    "MAX_FRAMES",
    "SILENCE_FRAME",
    "AudioFormatError",
    "AudioMixer",
    "BeepDetector",
    "DetectedKey",
    "DtmfDetector",
    "Framer",
    "Resampler",
    "UlawWavWriter",
    "alaw_to_pcm16",
    "alaw_to_ulaw",
    "apply_gain",
    "bytes_to_ms",
    "dtmf_tone",
    "is_silence",
    "mix_frames",
    "ms_to_bytes",
    "pcm16_to_alaw",
    "pcm16_to_ulaw",
    "peak_dbfs",
    "read_ulaw",
    "rms_dbfs",
    "ulaw_to_alaw",
    "ulaw_to_pcm16",
]

_HOMES = {
    "beep": ("BeepDetector",),
    "dtmf": ("DTMF_KEYS", "DetectedKey", "DtmfDetector", "dtmf_tone"),
    "frames": (
        "FRAME_BYTES",
        "FRAME_INTERVAL",
        "FRAME_MS",
        "SILENCE_FRAME",
        "Framer",
        "bytes_to_ms",
        "ms_to_bytes",
    ),
    "g711": (
        "alaw_to_pcm16",
        "alaw_to_ulaw",
        "pcm16_to_alaw",
        "pcm16_to_ulaw",
        "ulaw_to_alaw",
        "ulaw_to_pcm16",
    ),
    "levels": ("apply_gain", "is_silence", "peak_dbfs", "rms_dbfs"),
    "mixer": ("CATCHUP_LIMIT", "MAX_FRAMES", "AudioMixer", "mix_frames"),
    "resample": ("Resampler",),
    "wav": ("AudioFormatError", "UlawWavWriter", "read_ulaw"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
