"""What the settings tell by themselves."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from voice_runtime.config import Settings
from voice_runtime.doctor_report import Check
from voice_runtime.doctor_settings import (
    check_policy,
    check_providers,
    check_public_url,
    check_stream_url,
    check_twilio_settings,
)

AC, SK, TOKEN = "AC" + "1" * 32, "SK" + "2" * 32, "0123456789abcdef" * 2


def levels(checks: list[Check]) -> list[str]:
    return [check.level for check in checks]


class TestUrls:
    """Whether Twilio could get there, as far as the URL tells."""

    def stream(self, url: str | None) -> Check:
        (check,) = check_stream_url(Settings(voice_stream_url=url))
        return check

    @pytest.mark.parametrize(
        "url", ["wss://voice.example.com", "https://voice.example.com:8443/tele/", "wss://8.8.8.8"]
    )
    def test_good(self, url: str) -> None:
        """A public host over TLS; https stands for wss."""
        check = self.stream(url)
        assert (check.level, check.advice) == ("ok", "")
        assert check.found.startswith("wss://")

    def test_not_set(self) -> None:
        """The variable and an example are named; the public URL depends on it."""
        check = self.stream(None)
        assert check.level == "error"
        assert "VOICE_STREAM_URL=wss://voice.example.com" in check.advice
        assert levels(check_public_url(Settings())) == ["skipped"]

    @pytest.mark.parametrize(
        ("url", "found", "advice"),
        [
            ("ws://voice.example.com", "connects over wss only", "TLS"),
            ("wss://localhost", "your own machine or network only", "public name"),
            ("wss://myserver", "your own machine or network only", "public name"),
            ("wss://myserver.local", "your own machine or network only", "public name"),
            ("ws://127.0.0.1:8080", "Twilio cannot reach it", "public name"),
            ("wss://192.168.1.20", "Twilio cannot reach it", "public name"),
            ("wss://[::1]:8080", "Twilio cannot reach it", "public name"),
            ("wss://my_voice.example.com", "no host name with an underscore", "without underscores"),
            ("wss://voice.example.com?key=hidden", "query string", "Correct VOICE_STREAM_URL"),
            ("ftp://voice.example.com", "wss://", "Correct VOICE_STREAM_URL"),
        ],
    )
    def test_bad(self, url: str, found: str, advice: str) -> None:
        """Each has its own explanation; what may be secret is not shown."""
        check = self.stream(url)
        assert check.level == "error"
        assert found in check.found
        assert advice in check.advice
        assert "hidden" not in check.found + check.advice

    @pytest.mark.parametrize(
        ("url", "level", "found"),
        [
            ("http://voice.example.com", "warning", "without TLS"),
            ("https://localhost:8080", "error", "your own machine"),
            ("https://my_voice.example.com", "error", "underscore"),
            ("voice.example.com", "error", "VOICE_PUBLIC_URL is 'voice.example.com'"),
        ],
    )
    def test_bad_public_urls(self, url: str, level: str, found: str) -> None:
        """As those of streams, except that webhooks do without TLS, unwisely."""
        (check,) = check_public_url(Settings(voice_public_url=url))
        assert check.level == level
        assert found in check.found
        assert check.advice

    def test_public_url_follows_from_the_stream_url(self) -> None:
        """Unless it is set."""
        (check,) = check_public_url(Settings(voice_stream_url="wss://voice.example.com/tele"))
        assert (check.level, check.found) == (
            "ok",
            "https://voice.example.com/tele, which follows from VOICE_STREAM_URL.",
        )
        (check,) = check_public_url(Settings(voice_public_url="https://voice.example.com"))
        assert check.level == "ok"

    @pytest.mark.parametrize(
        ("public", "same"),
        [
            ("https://voice.example.com", True),
            ("https://voice.example.com:443", True),
            ("https://other.example.com", False),
            ("https://voice.example.com:8443", False),
            ("https://voice.example.com/tele", False),
        ],
    )
    def test_both_urls_should_lead_to_the_same_place(self, public: str, same: bool) -> None:
        """Host, port and path."""
        (check,) = check_public_url(Settings(voice_stream_url="wss://voice.example.com", voice_public_url=public))
        assert check.level == ("ok" if same else "warning")
        assert ("VOICE_STREAM_URL is wss://voice.example.com" in check.found) is not same


class TestTwilio:
    """Presence and shape, before anything is asked."""

    def check(self, **values: Any) -> list[Check]:
        good = {"twilio_account_sid": AC, "twilio_auth_token": TOKEN, "twilio_phone_number": "+358401234567"}
        return check_twilio_settings(Settings(**{**good, **values}))

    def test_good(self) -> None:
        """The number is masked, the account recognisable."""
        (check,) = self.check(twilio_api_key=SK, twilio_api_secret="secret")
        assert (check.level, check.found) == ("ok", "Account AC…1111, number +358…67.")

    @pytest.mark.parametrize(
        ("values", "level", "found", "advice"),
        [
            ({"twilio_account_sid": None}, "error", "TWILIO_ACCOUNT_SID is not set", "begins with AC"),
            ({"twilio_account_sid": SK}, "error", "TWILIO_ACCOUNT_SID is not AC followed by 32", "Copy it"),
            ({"twilio_auth_token": None}, "error", "every call would be refused", "auth token"),
            (
                {"twilio_auth_token": None, "twilio_api_key": SK, "twilio_api_secret": "secret"},
                "error",
                "TWILIO_AUTH_TOKEN is not set: no signature can be checked",
                "auth token",
            ),
            ({"twilio_auth_token": "hunter2"}, "warning", "not 32 hexadecimal digits", "TWILIO_API_SECRET"),
            ({"twilio_api_key": AC, "twilio_api_secret": "secret"}, "error", "TWILIO_API_KEY is not SK", "Copy it"),
            ({"twilio_api_key": SK}, "error", "TWILIO_API_KEY and TWILIO_API_SECRET go together", "Correct it"),
            ({"twilio_messaging_service_sid": "MGx"}, "error", "TWILIO_MESSAGING_SERVICE_SID is not MG", "Copy it"),
            ({"twilio_region": "ie1"}, "error", "TWILIO_EDGE is not", "TWILIO_EDGE=dublin"),
            ({"twilio_region": "zz9"}, "error", "TWILIO_EDGE is not", "TWILIO_EDGE=<an edge>"),
            ({"twilio_edge": "dublin"}, "error", "TWILIO_REGION is not", "or neither"),
            ({"twilio_phone_number": "0401234567"}, "error", "040…67, which is no number in E.164", "in quotes"),
            ({"twilio_phone_number": "+358 40 123 4567"}, "error", "no number in E.164", "in quotes"),
            ({"twilio_phone_number": "+3584"}, "error", "no number in E.164", "in quotes"),
        ],
    )
    def test_bad(self, values: dict[str, Any], level: str, found: str, advice: str) -> None:
        """Each is told apart, and no value of a secret is shown."""
        (check,) = self.check(**values)
        assert check.level == level
        assert found in check.found
        assert advice in check.advice
        assert "hunter2" not in check.found + check.advice
        assert "1234567" not in check.found

    def test_several_at_once(self) -> None:
        """One line each."""
        assert levels(self.check(twilio_account_sid="AC1", twilio_phone_number="+3584")) == ["error", "error"]

    def test_a_region_without_a_number_is_fine(self) -> None:
        """Another region's credentials are looked at, too."""
        region = {"edge": "dublin", "auth_token": TOKEN}
        (check,) = self.check(twilio_regions={"ie1": region}, twilio_phone_number=None)
        assert (check.level, check.found) == ("ok", "Account AC…1111, no number.")


class TestProviders:
    """What a server would take."""

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.missing: set[str] = set()
        self.present: set[str] = set()
        find = importlib.util.find_spec

        def find_spec(name: str, *more: Any) -> Any:
            if name in self.missing:
                return None
            return object() if name in self.present else find(name, *more)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)
        self.present |= {"pocketsphinx", "espeakng_loader"}

    def check(self, **values: Any) -> list[Check]:
        return check_providers(Settings(**values))

    def have_elevenlabs(self) -> None:
        self.present |= {
            "elevenlabs",
            "voice_runtime.providers.elevenlabs_stt",
            "voice_runtime.providers.elevenlabs_tts",
        }

    def test_the_first_that_is_installed(self) -> None:
        """With what is worth knowing about it."""
        stt, tts = self.check(voice_tts="tone")
        assert (stt.level, stt.name) == ("ok", "speech recognition")
        assert stt.found.startswith("pocketsphinx, as VOICE_STT is not set. Note: Recognises only")
        assert (tts.level, tts.found) == ("ok", "VOICE_TTS=tone. Note: Beeps, one per word; not a voice.")

    def test_nothing_is_installed(self) -> None:
        """The exact line that changes it; a warning, for a flow may bring its own."""
        self.missing |= {"pocketsphinx", "espeakng_loader", "elevenlabs"}
        for check in self.check():
            assert check.level == "warning"
            assert check.advice.startswith("pip install 'voice-runtime[local]'")

    def test_what_is_named_is_not_installed(self) -> None:
        """An error: the server would not start."""
        self.missing.add("pocketsphinx")
        stt, _ = self.check(voice_stt="pocketsphinx")
        assert stt.level == "error"
        assert "pocketsphinx cannot be imported" in stt.found
        assert stt.advice == "pip install 'voice-runtime[local]'."

    def test_an_unknown_name(self) -> None:
        """The known ones are listed."""
        stt, _ = self.check(voice_stt="whisperer")
        assert stt.level == "error"
        assert "Unknown STT provider: 'whisperer'. Known: " in stt.found
        assert stt.advice == "Set VOICE_STT to one of these."

    def test_a_missing_key(self) -> None:
        """Named, and its value never shown."""
        self.have_elevenlabs()
        for check, variable in zip(self.check(), ("VOICE_STT", "VOICE_TTS"), strict=True):
            assert check.level == "error"
            assert check.found == f"elevenlabs, as {variable} is not set. ELEVENLABS_API_KEY is not set."
            assert check.advice == f"Set ELEVENLABS_API_KEY, or {variable} to another."
        for check in self.check(elevenlabs_api_key="sk_hidden"):
            assert check.level == "ok"
            assert "key set" in check.found
            assert "hidden" not in check.found


class TestPolicy:
    """The do-not-call list, and how long a call may last."""

    def test_without_settings(self) -> None:
        """All is well."""
        assert levels(check_policy(Settings())) == ["ok", "ok"]

    @pytest.mark.parametrize(("text", "level"), [("+358401234567\n", "ok"), ("nobody\n", "error"), (None, "error")])
    def test_the_list(self, text: str | None, level: str, tmp_path: Path) -> None:
        """Read as the policy reads it: a list that cannot be read stops every call."""
        path = tmp_path / "do-not-call.txt"
        if text is not None:
            path.write_text(text)
        check, _ = check_policy(Settings(voice_do_not_call=path))
        assert check.level == level
        assert str(path) in check.found
        assert ("nobody is called" in check.advice) is (level == "error")

    @pytest.mark.parametrize(
        ("seconds", "level"), [(5, "warning"), (10, "ok"), (3600, "ok"), (14_400, "ok"), (14_401, "warning")]
    )
    def test_the_longest_call(self, seconds: float, level: str) -> None:
        """Up to Twilio's own limit of four hours."""
        _, check = check_policy(Settings(voice_max_call_seconds=seconds))
        assert check.level == level
