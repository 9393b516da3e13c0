"""Telephone calls as plain, blocking Python over Twilio Media Streams.

Names are loaded on first use, so importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audio.mixer import AudioMixer, mix_frames
    from .events import Outcome
    from .exceptions import (
        CallHangupError,
        CallNotAnsweredError,
        MissingStreamUrlError,
        VoiceRuntimeError,
    )
    from .flow import Call
    from .results import ListenResult, PlayResult, SayResult
    from .server import CallFacts, VoiceServer
    from .session import VoiceSession
    from .stt import Recognizer, SttProvider, create_stt, get_stt_class
    from .stt_tee import SttTee
    from .transport import create_transport, get_sms_transport
    from .tts import SpeechChunk, Synthesizer, TtsProvider, create_tts, get_tts_class

# Public name -> the module it lives in.
_HOMES = {
    "AudioMixer": "audio.mixer",
    "Call": "flow",
    "CallFacts": "server",
    "CallHangupError": "exceptions",
    "CallNotAnsweredError": "exceptions",
    "ListenResult": "results",
    "MissingStreamUrlError": "exceptions",
    "Outcome": "events",
    "PlayResult": "results",
    "Recognizer": "stt",
    "SayResult": "results",
    "SpeechChunk": "tts",
    "SttProvider": "stt",
    "SttTee": "stt_tee",
    "Synthesizer": "tts",
    "TtsProvider": "tts",
    "VoiceRuntimeError": "exceptions",
    "VoiceServer": "server",
    "VoiceSession": "session",
    "create_stt": "stt",
    "create_transport": "transport",
    "create_tts": "tts",
    "get_sms_transport": "transport",
    "get_stt_class": "stt",
    "get_tts_class": "tts",
    "mix_frames": "audio.mixer",
}

__all__ = [
    "AudioMixer",
    "Call",
    "CallFacts",
    "CallHangupError",
    "CallNotAnsweredError",
    "ListenResult",
    "MissingStreamUrlError",
    "Outcome",
    "PlayResult",
    "Recognizer",
    "SayResult",
    "SpeechChunk",
    "SttProvider",
    "SttTee",
    "Synthesizer",
    "TtsProvider",
    "VoiceRuntimeError",
    "VoiceServer",
    "VoiceSession",
    "create_stt",
    "create_transport",
    "create_tts",
    "get_sms_transport",
    "get_stt_class",
    "get_tts_class",
    "mix_frames",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
