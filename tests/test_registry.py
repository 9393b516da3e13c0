"""Providers are found by kind and name, and nothing is imported before it is asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from voice_runtime import registry
from voice_runtime.exceptions import ConfigurationError, ProviderNotFoundError, ProviderUnavailableError
from voice_runtime.stt import create_stt, get_stt_class
from voice_runtime.tts import create_tts, get_tts_class


@pytest.fixture
def own_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of one's own with two classes, registered as the STT provider "own"."""
    (tmp_path / "own_voice.py").write_text("class Own:\n    class Inner: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.register_provider("stt", "own", "own_voice:Own")
    yield "own"
    registry.unregister_provider("stt", "own")
    sys.modules.pop("own_voice", None)


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("stt", "Unknown STT provider"),
        ("tts", "Unknown TTS provider"),
        ("vad", "Unknown VAD provider"),
        ("llm", "Unknown LLM provider"),
        ("sms", "Unknown SMS transport"),
        ("transport", "Unknown transport"),
    ],
)
def test_unknown_names_are_told_with_the_known_ones(kind: str, label: str) -> None:
    """The message begins with what was looked for and lists what there is."""
    with pytest.raises(ProviderNotFoundError) as raised:
        registry.load_class(kind, "nobody")
    assert str(raised.value).startswith(f"{label}: 'nobody'.")
    for name in registry.provider_names(kind):
        assert name in str(raised.value)


def test_unknown_kinds_are_refused() -> None:
    """A kind that does not exist is a mistake of the program, not a missing provider."""
    with pytest.raises(ConfigurationError, match=r"'voice'.*stt, tts, vad"):
        registry.provider_names("voice")


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in ("stt", "tts") for name in registry.provider_names(kind)]
)
def test_every_catalogued_provider_loads_or_says_why_not(kind: str, name: str) -> None:
    """A name of the catalogue gives a class, or an error that does not promise what an install cannot give."""
    make = get_stt_class if kind == "stt" else get_tts_class
    if registry.is_provider_available(kind, name):
        assert isinstance(make(name), type)
        assert registry.status(kind, name).ready
        return
    with pytest.raises(ProviderUnavailableError) as raised:
        make(name)
    assert "not part of this version yet" in str(raised.value) or "pip install" in str(raised.value)
    assert not registry.status(kind, name).ready


@pytest.mark.parametrize(("kind", "name"), [("sms", "twilio"), ("transport", "twilio"), ("vad", "energy")])
def test_the_base_install_has_its_parts(kind: str, name: str) -> None:
    """What needs no extra can be loaded."""
    assert isinstance(registry.load_class(kind, name), type)
    assert registry.extra_hint_for(kind, name) is None


def test_missing_extra_is_answered_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exact line to type, at creation, in the status and as a hint."""
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    line = "pip install 'voice-runtime[local]'"
    with pytest.raises(ProviderUnavailableError, match="espeakng_loader cannot be imported") as raised:
        create_tts("espeak")
    assert line in str(raised.value)
    assert line in registry.status("tts", "espeak").message
    assert registry.extra_hint_for("tts", "espeak") == line
    assert not registry.is_provider_available("tts", "espeak")


def test_import_errors_inside_a_provider_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider whose module fails to import is unavailable, with the reason."""
    (tmp_path / "broken_voice.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.register_provider("stt", "broken", "broken_voice:Recognizer", extra="azure")
    try:
        with pytest.raises(ProviderUnavailableError, match=r"a_module_that_is_not_there.*voice-runtime\[azure\]"):
            create_stt("broken")
    finally:
        registry.unregister_provider("stt", "broken")


@pytest.mark.parametrize("target", ["no_such_module_at_all:X", "voice_runtime.mock.stt:NoSuchClass"])
def test_targets_that_do_not_exist_are_unavailable(target: str) -> None:
    """A registered name that leads nowhere says so when it is used."""
    registry.register_provider("tts", "astray", target)
    try:
        with pytest.raises(ProviderUnavailableError, match="there is no"):
            create_tts("astray")
    finally:
        registry.unregister_provider("tts", "astray")


@pytest.mark.parametrize("target", ["module", "module:", ":Class", ""])
def test_targets_must_name_module_and_class(target: str) -> None:
    """A target without a class is refused when it is registered."""
    with pytest.raises(ConfigurationError, match=r"package\.module:Class"):
        registry.register_provider("stt", "own", target)


def test_registered_providers_are_imported_on_first_use(own_provider: str) -> None:
    """Registering imports nothing; loading does."""
    assert "own_voice" not in sys.modules
    assert registry.is_provider_available("stt", own_provider)
    assert "own_voice" not in sys.modules
    assert registry.load_class("stt", own_provider).__name__ == "Own"
    assert own_provider in registry.provider_names("stt")


def test_registering_replaces_and_unregistering_restores(own_provider: str) -> None:
    """A registered provider stands in for one of the catalogue until it is taken away."""
    registry.register_provider("stt", "mock", "own_voice:Own.Inner")
    try:
        assert registry.load_class("stt", "mock").__name__ == "Inner"
    finally:
        registry.unregister_provider("stt", "mock")
    assert registry.load_class("stt", "mock").__name__ == "MockStt"


def test_installed_packages_bring_providers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point "stt.acme" of an installed distribution makes create_stt("acme") work."""
    (tmp_path / "acme_voice.py").write_text("class Acme:\n    def __init__(self, key=''):\n        self.key = key\n")
    info = tmp_path / "acme_voice-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-voice\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[voice_runtime.providers]\nstt.acme = acme_voice:Acme\nnonsense = acme_voice:Acme\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "acme" in registry.provider_names("stt")
    made = create_stt("acme", key="secret")
    assert vars(made) == {"key": "secret"}
    monkeypatch.undo()
    assert "acme" not in registry.provider_names("stt")
    sys.modules.pop("acme_voice", None)


def test_status_tells_the_licence_of_espeak() -> None:
    """Who looks before using it reads that the library is under the GPL."""
    assert "GPL-3.0" in registry.status("tts", "espeak").message


def test_names_with_an_ability_are_those_that_can_be_had() -> None:
    """A provider that is not part of this version is no answer to "who can do it?"."""
    for name in registry.provider_names("stt", ability="dictation"):
        assert "not part of this version" not in registry.status("stt", name).message


def test_looking_is_cheap() -> None:
    """Interfaces and status import no provider and nothing heavy."""
    program = """
import sys
from voice_runtime import registry, stt, tts, vad, stt_tee
import voice_runtime.providers
for kind in registry.KINDS:
    for name in registry.provider_names(kind):
        registry.status(kind, name)
heavy = {"numpy", "twilio", "pydantic", "fastapi", "websockets", "espeakng_loader", "pocketsphinx", "httpx"}
print(sorted(heavy & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
