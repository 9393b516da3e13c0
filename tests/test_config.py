"""Settings and their sources."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from voice_runtime.config import Settings, http_url, load, websocket_url
from voice_runtime.exceptions import ConfigurationError, MissingStreamUrlError


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting in the environment, and no .env in the working directory."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults() -> None:
    """Without any source the documented defaults hold and nothing required is made up."""
    settings = load()
    assert settings.voice_server_port == 8080
    assert settings.stt_model_id == "scribe_v2_realtime"
    assert settings.elevenlabs_model == "eleven_multilingual_v2"
    assert settings.elevenlabs_voice_id == "21m00Tcm4TlvDq8ikWAM"
    assert settings.azure_speech_region == "westeurope"
    assert settings.stt_language_code is None
    assert settings.voice_monitor is False
    assert settings.voice_log_transcripts is False
    assert settings.voice_stream_url is None
    assert settings.auth_tokens == ()


def test_the_published_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every environment variable of the published README reaches the attribute of its name."""
    published = {
        "VOICE_STREAM_URL": "wss://voice.example.com",
        "VOICE_SERVER_PORT": "9001",
        "TWILIO_ACCOUNT_SID": "AC1",
        "TWILIO_AUTH_TOKEN": "token",
        "TWILIO_PHONE_NUMBER": "+15005550006",
        "ELEVENLABS_API_KEY": "key",
        "ELEVENLABS_VOICE_ID": "voice",
        "ELEVENLABS_MODEL": "model",
        "STT_MODEL_ID": "scribe",
        "STT_LANGUAGE_CODE": "fi",
        "AZURE_SPEECH_KEY": "azure",
        "AZURE_SPEECH_REGION": "northeurope",
        "AZURE_TTS_VOICE": "fi-FI-NooraNeural",
        "VOICE_MONITOR": "1",
    }
    for name, value in published.items():
        monkeypatch.setenv(name, value)
    settings = load()
    for name, value in published.items():
        came: Any = getattr(settings, name.lower())
        if hasattr(came, "get_secret_value"):
            came = came.get_secret_value()
        expected: Any = {"VOICE_SERVER_PORT": 9001, "VOICE_MONITOR": True}.get(name, value)
        assert came == expected, name


def test_the_order_of_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Defaults yield to a mapping, that to .env, that to the environment, and that to keywords."""
    assert load().voice_server_port == 8080
    mapping = {"VOICE_SERVER_PORT": 1}
    assert Settings.from_mapping(mapping).voice_server_port == 1
    (tmp_path / ".env").write_text("VOICE_SERVER_PORT=2\nSOMETHING_ELSE=x\n", encoding="utf-8")
    assert Settings.from_mapping(mapping).voice_server_port == 2
    monkeypatch.setenv("VOICE_SERVER_PORT", "3")
    assert Settings.from_mapping(mapping).voice_server_port == 3
    assert Settings.from_mapping(mapping, voice_server_port=4).voice_server_port == 4
    assert load(voice_server_port=5).voice_server_port == 5


def test_the_environment_is_read_when_asked_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable set after the import counts, and one mapping's values do not leak into the next load."""
    Settings.from_mapping({"voice_stt": "azure"})
    assert load().voice_stt is None
    monkeypatch.setenv("VOICE_STT", "pocketsphinx")
    assert load().voice_stt == "pocketsphinx"


def test_loading_again_costs_nothing_until_something_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same object comes back until the environment or .env changes, and every change is seen."""
    first = load()
    assert load() is first
    monkeypatch.setenv("UNRELATED", "x")
    assert load() is first
    monkeypatch.setenv("voice_server_port", "1")
    assert load().voice_server_port == 1
    monkeypatch.delenv("voice_server_port")
    assert load() == first
    (tmp_path / ".env").write_text("VOICE_SERVER_PORT=2", encoding="utf-8")
    assert load().voice_server_port == 2
    (tmp_path / ".env").write_text("VOICE_SERVER_PORT=33", encoding="utf-8")
    assert load().voice_server_port == 33
    monkeypatch.chdir("/")
    assert load().voice_server_port == 8080


def test_an_empty_variable_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """VOICE_SERVER_PORT= in a compose file means the default, not an error."""
    monkeypatch.setenv("VOICE_SERVER_PORT", "")
    monkeypatch.setenv("VOICE_STREAM_URL", "")
    assert load().voice_server_port == 8080
    with pytest.raises(MissingStreamUrlError, match="VOICE_STREAM_URL"):
        load().stream_url()


def test_yaml(tmp_path: Path) -> None:
    """A YAML file gives what the environment does not."""
    path = tmp_path / "voice.yaml"
    path.write_text(
        "voice_server_port: 7000\nTWILIO_PHONE_NUMBER: '+358401234567'\nvoice_stt: null\n"
        "twilio_shared_keys: {one: s1}\n",
        encoding="utf-8",
    )
    settings = Settings.from_yaml(path, voice_tts="azure")
    assert (settings.voice_server_port, settings.twilio_phone_number) == (7000, "+358401234567")
    assert (settings.voice_stt, settings.voice_tts) == (None, "azure")
    assert settings.shared_keys == {"one": "s1"}
    path.write_text("", encoding="utf-8")
    assert Settings.from_yaml(path).voice_server_port == 8080


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a\n- b\n", "must hold one mapping"),
        ("a: b: SECRET", r"not valid YAML at line 1\.$"),
        ("voice_prot: 1", "no setting called 'voice_prot'"),
        ("twilio_phone_number: +358401234567", r"TWILIO_PHONE_NUMBER: 358401234567 came .* in quotes"),
    ],
)
def test_a_yaml_file_that_cannot_be_used(tmp_path: Path, text: str, complaint: str) -> None:
    """The error says what is wrong with the file, without its text."""
    path = tmp_path / "voice.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        Settings.from_yaml(path)
    assert "SECRET" not in str(caught.value)


def test_a_missing_yaml_file(tmp_path: Path) -> None:
    """A path that does not exist is a configuration error naming it."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read"):
        Settings.from_yaml(tmp_path / "nowhere.yaml")


def test_without_pyyaml_the_error_holds_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML is needed by from_yaml only, and its absence is answered with how to install it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigurationError, match="pip install pyyaml"):
        Settings.from_yaml("voice.yaml")


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("VOICE_SERVER_PORT", "eighty", ["VOICE_SERVER_PORT", "'eighty'", "8080"]),
        ("VOICE_SERVER_PORT", "70000", ["VOICE_SERVER_PORT", "'70000'"]),
        ("VOICE_MONITOR", "perhaps", ["VOICE_MONITOR", "'perhaps'", "true"]),
        ("VOICE_MAX_CALL_SECONDS", "-1", ["VOICE_MAX_CALL_SECONDS", "'-1'", "3600"]),
        ("TWILIO_SHARED_KEYS", "SECRET", ["TWILIO_SHARED_KEYS", "id=secret"]),
        ("TWILIO_SHARED_KEYS", '{"SECRET', ["TWILIO_SHARED_KEYS", "JSON"]),
    ],
)
def test_a_wrong_value_is_explained(monkeypatch: pytest.MonkeyPatch, name: str, value: str, parts: list[str]) -> None:
    """The error names the variable, what came and an example, and no secret; it is not pydantic's own."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load()
    for part in parts:
        assert part in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_an_unknown_keyword_is_refused_with_the_nearest_name() -> None:
    """A misspelt keyword does not vanish."""
    with pytest.raises(ConfigurationError, match=r"'voice_stream_ulr'\. Did you mean voice_stream_url"):
        load(voice_stream_ulr="wss://x")
    with pytest.raises(ConfigurationError, match="The settings are azure_speech_host"):
        load(zzz=1)


def test_secrets_are_never_shown() -> None:
    """Neither repr, str nor a dump prints a secret."""
    settings = load(
        twilio_auth_token="S3CRET-1",
        twilio_api_secret="S3CRET-2",
        elevenlabs_api_key="S3CRET-3",
        azure_speech_key="S3CRET-4",
        twilio_shared_keys={"id": "S3CRET-5"},
    )
    for shown in (repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json()):
        assert "S3CRET" not in shown


def test_several_tokens_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comma separates the tokens of a rotation and the shared keys; JSON does for the keys as well."""
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", " first , second ,")
    monkeypatch.setenv("TWILIO_SHARED_KEYS", "a=1, b=2==")
    settings = load()
    assert settings.auth_tokens == ("first", "second")
    assert settings.shared_keys == {"a": "1", "b": "2=="}
    monkeypatch.setenv("TWILIO_SHARED_KEYS", '{"c": "3"}')
    assert load().shared_keys == {"c": "3"}


def test_a_required_setting_names_itself() -> None:
    """What is missing is named with its purpose and an example; what is there is returned."""
    with pytest.raises(ConfigurationError, match=r"TWILIO_PHONE_NUMBER is not set.*place a call.*\+358401234567"):
        load().require("twilio_phone_number", "place a call")
    settings = load(twilio_auth_token="t")
    assert settings.require("twilio_auth_token", "place a call") == "t"


def test_settings_cannot_be_changed() -> None:
    """A settings object is a value."""
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.voice_server_port = 1


@pytest.mark.parametrize(
    ("base", "path", "expected"),
    [
        ("wss://v.example.com", "/voice", "wss://v.example.com/voice"),
        ("wss://v.example.com/", "/voice", "wss://v.example.com/voice"),
        ("wss://v.example.com//", "voice", "wss://v.example.com/voice"),
        ("https://v.example.com", "/voice/token", "wss://v.example.com/voice/token"),
        ("http://127.0.0.1:8080", "/voice", "ws://127.0.0.1:8080/voice"),
        ("ws://localhost", "/voice", "ws://localhost/voice"),
        ("WSS://V.example.com/base/", "/voice", "wss://V.example.com/base/voice"),
        (" wss://[::1]:8443 ", "", "wss://[::1]:8443"),
    ],
)
def test_the_stream_url(base: str, path: str, expected: str) -> None:
    """The path is added with exactly one slash and the scheme becomes a WebSocket one."""
    assert websocket_url(base, path) == expected
    assert load(voice_stream_url=base).stream_url(path) == expected


@pytest.mark.parametrize(
    ("base", "complaint"),
    [
        ("wss://h/x?token=SECRET", "query string"),
        ("wss://h?", "query string"),
        ("voice.example.com", "must begin with wss://"),
        ("ftp://h", "must begin with wss://"),
        ("wss://", "no host"),
        ("wss:///voice", "no host"),
        ("wss://h:port", "not a URL"),
        ("wss://[::1", "not a URL"),
        ("wss://h/#x", "fragment"),
        ("wss://h/a b", "white space"),
        ("wss://user:SECRET@h/a b", "white space"),
    ],
)
def test_a_stream_url_that_twilio_cannot_use(base: str, complaint: str) -> None:
    """The error names the variable, what is wrong and an example, without secrets."""
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load(voice_stream_url=base).stream_url()
    assert "VOICE_STREAM_URL" in str(caught.value)
    assert "wss://voice.example.com" in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_the_public_url() -> None:
    """Webhooks live below VOICE_PUBLIC_URL, or else on the stream's host."""
    assert load(voice_public_url="https://w.example.com/").public_url("/twilio/voice") == (
        "https://w.example.com/twilio/voice"
    )
    assert load(voice_stream_url="wss://v.example.com/b").public_url("x") == "https://v.example.com/b/x"
    assert load(voice_stream_url="ws://127.0.0.1:1").public_url() == "http://127.0.0.1:1"
    with pytest.raises(MissingStreamUrlError):
        load().public_url()
    with pytest.raises(ConfigurationError, match="VOICE_PUBLIC_URL"):
        load(voice_public_url="v.example.com").public_url()
    assert http_url("wss://h") == "https://h"


def test_importing_reads_nothing(tmp_path: Path) -> None:
    """A broken environment and a broken .env do not disturb the import; using them does."""
    (tmp_path / ".env").write_bytes(b"VOICE_STT=\xff\n")
    environment = {**os.environ, "VOICE_SERVER_PORT": "broken"}
    script = "import voice_runtime.config as c\ntry: c.load()\nexcept RuntimeError: print('refused')"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, "refused"), done.stderr
