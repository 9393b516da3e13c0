"""The package's names: exported on purpose, cheap to import, and where 0.1.0 had them."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import voice_runtime

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(voice_runtime.__path__, "voice_runtime.")
    if not module.name.endswith("__main__")
)

PUBLISHED = {
    "voice_runtime": [
        "VoiceSession",
        "MissingStreamUrlError",
        "CallNotAnsweredError",
        "CallHangupError",
        "create_stt",
        "get_stt_class",
        "create_tts",
        "get_sms_transport",
        "AudioMixer",
        "mix_frames",
        "SttProvider",
        "TtsProvider",
    ],
    "voice_runtime.session": ["VoiceSession", "MissingStreamUrlError", "CallNotAnsweredError", "CallHangupError"],
    "voice_runtime.stt": ["create_stt", "get_stt_class"],
    "voice_runtime.tts": ["create_tts"],
    "voice_runtime.stt_tee": ["SttTee"],
    "voice_runtime.transport": ["create_transport", "get_sms_transport"],
    "voice_runtime.audio": [
        "AudioMixer",
        "mix_frames",
        "FRAME_BYTES",
        "FRAME_INTERVAL",
        "MAX_FRAMES",
        "SILENCE_FRAME",
        "CATCHUP_LIMIT",
    ],
    "voice_runtime.providers": ["SttProvider", "TtsProvider"],
    "voice_runtime.transports.twilio_ws": ["register_voice_websocket"],
    "voice_runtime.transports.twilio_call": ["initiate_outbound_call", "build_stream_twiml", "build_stream_xml"],
    "voice_runtime.transports.twilio_sms": ["TwilioSms"],
    "voice_runtime.transports.mock_bridge": [
        "FakeWsBridge",
        "initiate_mock_call",
        "create_text_relay",
        "cleanup_bridges",
        "is_mock_transport",
    ],
    "voice_runtime.mock.stt": ["MockStt"],
    "voice_runtime.mock.tts": ["MockTts"],
}


@pytest.mark.parametrize("module", sorted(PUBLISHED))
def test_published_paths_are_the_homes(module: str) -> None:
    """Every import that 0.1.0 documents works."""
    loaded = importlib.import_module(module)
    assert [name for name in PUBLISHED[module] if not hasattr(loaded, name)] == []


def test_top_level_names_exist_and_are_declared_once() -> None:
    """The table, ``__all__`` and the modules agree."""
    assert list(voice_runtime.__all__) == sorted(set(voice_runtime.__all__))
    assert set(voice_runtime.__all__) == set(voice_runtime._HOMES)
    for name in voice_runtime.__all__:
        home = importlib.import_module(f"voice_runtime.{voice_runtime._HOMES[name]}")
        assert getattr(voice_runtime, name) is getattr(home, name)
        assert name in home.__all__ or name in ("CallHangupError", "CallNotAnsweredError", "MissingStreamUrlError")
    assert set(voice_runtime.__all__) <= set(dir(voice_runtime))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_exports(name: str) -> None:
    """``__all__`` is there, sorted in no particular way, and true."""
    module = importlib.import_module(name)
    if not getattr(module, "__all__", None):
        assert module.__doc__, f"{name} has neither names nor a docstring"
        return
    assert [export for export in module.__all__ if not hasattr(module, export)] == []
    assert module.__doc__


def test_unknown_names_are_attribute_errors() -> None:
    """As with any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        voice_runtime.Nonsense  # noqa: B018


def test_importing_loads_no_heavy_package() -> None:
    """Neither the package nor its session pulls in a web framework, an SDK, numpy or pydantic."""
    code = (
        "import sys, voice_runtime; from voice_runtime import VoiceSession, create_stt, create_tts\n"
        "heavy = {'fastapi', 'starlette', 'uvicorn', 'twilio', 'numpy', 'pydantic', 'httpx', 'rich', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
