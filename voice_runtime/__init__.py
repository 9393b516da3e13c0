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
        InvalidNumberError,
        MachineAnsweredError,
        MissingStreamUrlError,
        OptedOutError,
        PolicyError,
        RestError,
        VoiceRuntimeError,
    )
    from .facts import CallFacts, CallOutcome, DialOutcome
    from .flow import Call
    from .masking import mask_number
    from .mock.stt import MockStt
    from .mock.tts import MockTts
    from .policy import CallPolicy, DoNotCallFile
    from .results import ConferenceResult, GatherResult, ListenResult, PlayResult, SayResult, TransferResult
    from .server import VoiceServer
    from .session import VoiceSession
    from .stt import Recognizer, SttProvider, create_stt, get_stt_class
    from .stt_tee import SttTee
    from .switchboard import Refusal, busy, reject
    from .transport import create_transport, get_sms_transport
    from .transports.twilio_sms_webhooks import IncomingSms
    from .tts import SpeechChunk, Synthesizer, TtsProvider, create_tts, get_tts_class

# Public name -> the module it lives in.
_HOMES = {
    "AudioMixer": "audio.mixer",
    "Call": "flow",
    "CallFacts": "facts",
    "CallHangupError": "exceptions",
    "CallNotAnsweredError": "exceptions",
    "CallOutcome": "facts",
    "CallPolicy": "policy",
    "ConferenceResult": "results",
    "DialOutcome": "facts",
    "DoNotCallFile": "policy",
    "GatherResult": "results",
    "IncomingSms": "transports.twilio_sms_webhooks",
    "InvalidNumberError": "exceptions",
    "ListenResult": "results",
    "MachineAnsweredError": "exceptions",
    "MissingStreamUrlError": "exceptions",
    "MockStt": "mock.stt",
    "MockTts": "mock.tts",
    "OptedOutError": "exceptions",
    "Outcome": "events",
    "PlayResult": "results",
    "PolicyError": "exceptions",
    "Recognizer": "stt",
    "Refusal": "switchboard",
    "RestError": "exceptions",
    "SayResult": "results",
    "SpeechChunk": "tts",
    "SttProvider": "stt",
    "SttTee": "stt_tee",
    "Synthesizer": "tts",
    "TransferResult": "results",
    "TtsProvider": "tts",
    "VoiceRuntimeError": "exceptions",
    "VoiceServer": "server",
    "VoiceSession": "session",
    "busy": "switchboard",
    "create_stt": "stt",
    "create_transport": "transport",
    "create_tts": "tts",
    "get_sms_transport": "transport",
    "get_stt_class": "stt",
    "get_tts_class": "tts",
    "mask_number": "masking",
    "mix_frames": "audio.mixer",
    "reject": "switchboard",
}

__all__ = [
    "AudioMixer",
    "Call",
    "CallFacts",
    "CallHangupError",
    "CallNotAnsweredError",
    "CallOutcome",
    "CallPolicy",
    "ConferenceResult",
    "DialOutcome",
    "DoNotCallFile",
    "GatherResult",
    "IncomingSms",
    "InvalidNumberError",
    "ListenResult",
    "MachineAnsweredError",
    "MissingStreamUrlError",
    "MockStt",
    "MockTts",
    "OptedOutError",
    "Outcome",
    "PlayResult",
    "PolicyError",
    "Recognizer",
    "Refusal",
    "RestError",
    "SayResult",
    "SpeechChunk",
    "SttProvider",
    "SttTee",
    "Synthesizer",
    "TransferResult",
    "TtsProvider",
    "VoiceRuntimeError",
    "VoiceServer",
    "VoiceSession",
    "busy",
    "create_stt",
    "create_transport",
    "create_tts",
    "get_sms_transport",
    "get_stt_class",
    "get_tts_class",
    "mask_number",
    "mix_frames",
    "reject",
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
