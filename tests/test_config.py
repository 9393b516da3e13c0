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
        ("VOICE_DEFAULT_COUNTRY", "UK", ["VOICE_DEFAULT_COUNTRY", "'UK'", "the United Kingdom is GB"]),
        ("VOICE_ALLOWED_COUNTRIES", "FI;SE", ["VOICE_ALLOWED_COUNTRIES", "'FI;SE'", "FI,SE,EE or *"]),
        ("VOICE_PREMIUM_NUMBERS", "maybe", ["VOICE_PREMIUM_NUMBERS", "'maybe'", "false"]),
        ("VOICE_CALLS_PER_SECOND", "0", ["VOICE_CALLS_PER_SECOND", "'0'", "for example 1"]),
        ("VOICE_CONCURRENT_CALLS", "-1", ["VOICE_CONCURRENT_CALLS", "'-1'", "20"]),
        ("VOICE_CALLS_PER_DAY", "many", ["VOICE_CALLS_PER_DAY", "'many'", "500"]),
        ("VOICE_MESSAGES_PER_DAY", "1.5", ["VOICE_MESSAGES_PER_DAY", "'1.5'", "500"]),
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


def test_the_settings_of_the_call_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is set by default; countries are read in small letters too."""
    variables = {
        "VOICE_DEFAULT_COUNTRY": ("fi", "FI"),
        "VOICE_ALLOWED_COUNTRIES": ("FI, se", {"FI", "SE"}),
        "VOICE_PREMIUM_NUMBERS": ("true", True),
        "VOICE_DO_NOT_CALL": ("/etc/dnc.txt", Path("/etc/dnc.txt")),
        "VOICE_CALLS_PER_SECOND": ("0.5", 0.5),
        "VOICE_CONCURRENT_CALLS": ("0", 0),
        "VOICE_CALLS_PER_DAY": ("100", 100),
        "VOICE_MESSAGES_PER_DAY": ("200", 200),
    }
    for name, (text, value) in variables.items():
        assert getattr(load(), name.lower()) is None
        monkeypatch.setenv(name, text)
        assert getattr(load(), name.lower()) == value
    monkeypatch.setenv("VOICE_ALLOWED_COUNTRIES", "*")
    assert load().voice_allowed_countries == frozenset({"*"})


def test_norway_in_yaml(tmp_path: Path) -> None:
    """YAML reads a plain NO as false; the error says to quote it."""
    path = tmp_path / "voice.yaml"
    for text in ("voice_default_country: NO", "voice_allowed_countries: NO", "voice_allowed_countries: [FI, NO]"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigurationError, match=r"False.* came .*write Norway's code as 'NO', in quotes"):
            Settings.from_yaml(path)
    path.write_text("voice_default_country: 'NO'\nvoice_allowed_countries: [FI, 'NO']", encoding="utf-8")
    settings = Settings.from_yaml(path)
    assert (settings.voice_default_country, settings.voice_allowed_countries) == ("NO", frozenset({"FI", "NO"}))


IE1 = {"edge": "dublin", "auth_token": "ireland"}


def test_regions_come_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable holds a JSON object, names in any case; the main region comes first, us1 where none is set."""
    monkeypatch.setenv("TWILIO_REGIONS", '{"IE1": {"edge": "dublin", "auth_token": " ireland "}}')
    assert load().regions == ("us1", "ie1")
    assert load(twilio_region="au1", twilio_edge="sydney").regions == ("au1", "ie1")
    assert load(twilio_regions={}).regions == ("us1",)


def test_a_region_has_its_own_credentials() -> None:
    """for_region puts that region's credentials where the main ones were, and what it does not say is the main's."""
    settings = load(
        twilio_account_sid="AC1",
        twilio_auth_token="main, next",
        twilio_api_base_url="http://127.0.0.1:1",
        twilio_phone_number="+15005550006",
        twilio_regions={
            "ie1": {**IE1, "account_sid": "AC2", "api_base_url": "http://127.0.0.1:2"},
            "au1": {"edge": "sydney", "api_key": "SK1", "api_secret": "s"},
        },
    )
    ireland = settings.for_region(" IE1 ")
    assert (ireland.twilio_region, ireland.twilio_edge) == ("ie1", "dublin")
    assert (ireland.twilio_account_sid, ireland.rest_token) == ("AC2", "ireland")
    assert (ireland.twilio_api_base_url, ireland.twilio_phone_number) == ("http://127.0.0.1:2", "+15005550006")
    australia = ireland.for_region("au1")
    assert (australia.twilio_account_sid, australia.rest_token) == ("AC1", None)
    assert (australia.twilio_api_key, australia.require("twilio_api_secret", "x")) == ("SK1", "s")
    assert australia.twilio_api_base_url is None
    assert (settings.rest_token, settings.twilio_api_key) == ("main", None)


def test_regions_can_be_gone_back_from() -> None:
    """The region chosen comes first, the main one after it, and from there the same can be reached."""
    settings = load(twilio_account_sid="AC1", twilio_auth_token="main", twilio_regions={"ie1": IE1, "au1": {**IE1}})
    ireland = settings.for_region("ie1")
    assert settings.for_region(None) is settings
    assert settings.for_region("us1") is settings
    assert ireland.for_region(None) is ireland
    assert ireland.regions == ("ie1", "us1", "au1")
    back = ireland.for_region("us1")
    assert (back.twilio_region, back.twilio_edge, back.rest_token) == (None, None, "main")
    assert back.regions == ("us1", "ie1", "au1")
    named = load(twilio_region="ie1", twilio_edge="dublin", twilio_regions={"us1": {"auth_token": "t"}})
    assert (named.for_region("us1").twilio_region, named.for_region("us1").for_region("ie1").twilio_edge) == (
        None,
        "dublin",
    )


def test_signatures_may_be_of_any_region() -> None:
    """auth_tokens holds the tokens of all regions, once each; REST uses the region's own first one."""
    settings = load(twilio_auth_token="main,next", twilio_regions={"ie1": IE1, "au1": {**IE1, "edge": "sydney"}})
    assert settings.auth_tokens == ("main", "next", "ireland")
    assert settings.for_region("ie1").auth_tokens == ("ireland", "main", "next")
    assert load(twilio_regions={"ie1": IE1}).auth_tokens == ("ireland",)
    assert load(twilio_regions={"ie1": IE1}).rest_token is None


def test_an_unknown_region_names_the_known_ones() -> None:
    """The error says what is configured and how to add one."""
    with pytest.raises(ConfigurationError, match=r"'jp1' is not configured; known are us1, ie1\. TWILIO_REGIONS"):
        load(twilio_regions={"ie1": IE1}).for_region("jp1")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("S3CRET", "it is not JSON"),
        ('["S3CRET"]', "should be a valid dictionary"),
        ('{"ie1": "S3CRET"}', "in ie1 "),
        ('{"ie1": {"auth_token": "S3CRET"}}', "ie1 needs an edge"),
        ('{"ie1": {"edge": "dublin"}}', "in ie1 .*no credentials"),
        ('{"ie1": {"edge": "dublin", "auth_token": " , "}}', "no credentials"),
        ('{"ie1": {"edge": "dublin", "api_key": "SK1"}}', "go together"),
        ('{"ie1": {"edge": "dublin", "auth_token": "S3CRET", "tokn": "S3CRET"}}', "in ie1.tokn"),
        ('{"ie1": {"edge": "dublin", "auth_token": ["S3CRET"]}}', "in ie1.auth_token"),
        ('{"us1": {"auth_token": "S3CRET"}}', "us1 is the region without TWILIO_REGION"),
        ('{"ie1.x": {"edge": "dublin", "auth_token": "S3CRET"}}', "is not the name of a region"),
    ],
)
def test_regions_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, value: str, complaint: str) -> None:
    """The error names the variable, the place in it and an example, and no secret."""
    monkeypatch.setenv("TWILIO_REGIONS", value)
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        load(twilio_auth_token="S3CRET")
    assert str(caught.value).startswith("TWILIO_REGIONS: ")
    assert '"edge": "dublin"' in str(caught.value)
    assert "S3CRET" not in str(caught.value)


def test_the_main_region_is_not_configured_twice() -> None:
    """TWILIO_REGION's credentials are the main ones; a second set would be ambiguous."""
    with pytest.raises(ConfigurationError, match="ie1 is TWILIO_REGION"):
        load(twilio_region="ie1", twilio_edge="dublin", twilio_regions={"ie1": IE1})


def test_a_regions_secrets_are_never_shown() -> None:
    """Neither in the settings nor in those of a region."""
    settings = load(
        twilio_auth_token="S3CRET-1",
        twilio_regions={
            "ie1": {"edge": "dublin", "auth_token": "S3CRET-2", "api_key": "SK", "api_secret": "S3CRET-3"}
        },
    )
    for one in (settings, settings.for_region("ie1")):
        for shown in (repr(one), str(one), repr(one.model_dump()), one.model_dump_json()):
            assert "S3CRET" not in shown


def test_a_required_setting_names_itself() -> None:
    """What is missing is named with its purpose and an example; what is there is returned."""
    with pytest.raises(ConfigurationError, match=r"TWILIO_PHONE_NUMBER is not set.*place a call.*\+358401234567"):
        load().require("twilio_phone_number", "place a call")
    settings = load(twilio_auth_token="t")
    assert settings.require("twilio_auth_token", "place a call") == "t"


def test_the_messaging_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset unless the environment gives one; who asks for it is told what it looks like."""
    with pytest.raises(ConfigurationError, match=r"TWILIO_MESSAGING_SERVICE_SID is not set.*MG followed by 32"):
        load().require("twilio_messaging_service_sid", "send a text message later")
    monkeypatch.setenv("TWILIO_MESSAGING_SERVICE_SID", " MG1 ")
    assert load().twilio_messaging_service_sid == "MG1"


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
