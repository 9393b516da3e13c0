"""The whole examination over real sockets: a Twilio of ours, a server of ours, and a public name that leads to it."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tunnel import HOST, Tunnel, free_port, make_certificate, resolve_public_names
from voice_runtime import doctor
from voice_runtime.config import Settings
from voice_runtime.doctor import run_checks
from voice_runtime.doctor_public_url import walk_stream
from voice_runtime.doctor_report import Check, exit_code
from voice_runtime.exceptions import RestError
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio import FakeTwilio

NUMBER = "+15005550006"
NAMES = [
    "stream URL",
    "public URL",
    "Twilio settings",
    "credentials us1",
    "clock",
    "number",
    "voice webhook",
    "SMS webhook",
    "geographic permissions",
    "webhook round trip",
    "stream round trip",
    "speech recognition",
    "voice",
    "do-not-call list",
    "longest call",
]


class Place:
    """An account, a number, a tunnel from the public name to a port, and the settings for all of it."""

    def __init__(self, fake: FakeTwilio, tunnel: Tunnel, port: int) -> None:
        self.fake = fake
        self.base = f"{HOST}:{tunnel.port}"
        self.port = port

    def settings(self, **values: Any) -> Settings:
        return Settings(**{**self.values, **values})

    @property
    def values(self) -> dict[str, Any]:
        return {
            "voice_stream_url": f"wss://{self.base}",
            "voice_server_host": "127.0.0.1",
            "voice_server_port": self.port,
            "voice_stt": "mock",
            "voice_tts": "mock",
            "twilio_account_sid": self.fake.account_sid,
            "twilio_auth_token": self.fake.auth_token,
            "twilio_phone_number": NUMBER,
            "twilio_api_base_url": self.fake.api_base_url,
        }

    @contextlib.contextmanager
    def serving(self, **values: Any) -> Iterator[VoiceServer]:
        with VoiceServer(VoiceSession, stt="mock", tts="mock", settings=self.settings(**values)).running() as server:
            yield server


@pytest.fixture
def unused_port() -> int:
    return free_port()


@pytest.fixture
def place(tmp_path: Path, unused_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    resolve_public_names(monkeypatch)
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    with FakeTwilio() as fake, Tunnel(unused_port, certificate=certificate).running() as tunnel:
        made = Place(fake, tunnel, unused_port)
        fake.add_number(NUMBER, voice_url=f"https://{made.base}/voice", sms_url=f"https://{made.base}/sms")
        yield made


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def not_ok(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.level for check in checks if check.level != "ok"}


def test_all_is_well(place: Place) -> None:
    """Every line is there, in order, as soon as it is known; nothing is to be done; nothing was changed."""
    told: list[Check] = []
    with place.serving() as server:
        checks = run_checks(place.settings(), on_check=told.append)
        assert server.calls == []
    assert [check.name for check in checks] == NAMES
    assert not_ok(checks) == {}
    assert [check.advice for check in checks] == [""] * len(checks)
    assert told == checks
    assert exit_code(checks) == 0
    assert {entry.data["method"] for entry in place.fake.log.entries("rest")} == {"GET"}
    assert "a server was started" not in named(checks, "webhook round trip").found


def test_a_server_of_its_own(place: Place) -> None:
    """Where nothing serves the public URL yet one is started for the check, said, and stopped again."""
    checks = run_checks(place.settings())
    assert not_ok(checks) == {}
    found = named(checks, "webhook round trip").found
    assert found.startswith(f"Nothing served it yet, so a server was started on port {place.port} for this check. ")
    with socket.create_server(("127.0.0.1", place.port)):
        pass  # the port is free again


def test_a_call_that_meets_the_doctors_server_hears_the_engaged_tone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No flow is run and no apology said."""
    statuses: list[str] = []

    def during(settings: Settings, steps: Any) -> Any:
        place.fake.route(place.base, ("127.0.0.1", place.port))
        statuses.append(place.fake.place_call(to=NUMBER, from_="+358401234567").wait_ended())
        return walk_stream(settings, steps)

    monkeypatch.setattr(doctor, "walk_stream", during)
    assert not_ok(run_checks(place.settings())) == {}
    assert statuses == ["busy"]


def test_no_server_of_its_own(place: Place) -> None:
    """serve=False: the error stays, and names the port."""
    checks = run_checks(place.settings(), serve=False)
    assert not_ok(checks) == {"webhook round trip": "error", "stream round trip": "error"}
    check = named(checks, "webhook round trip")
    assert "HTTP 502" in check.found
    assert f"forward to port {place.port}" in check.advice
    assert exit_code(checks) == 1


def test_the_port_is_taken_by_something_the_url_does_not_reach(place: Place) -> None:
    """Said, instead of an exception."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        checks = run_checks(place.settings(voice_server_port=taken))
    check = named(checks, "webhook round trip")
    assert check.level == "error"
    assert check.found.startswith(f"Port {taken} of this machine is taken, but the public URL does not lead to")


def test_a_server_that_cannot_listen(place: Place) -> None:
    """Its address is none of this machine's (RFC 5737): said as well."""
    check = named(run_checks(place.settings(voice_server_host="192.0.2.1")), "webhook round trip")
    assert check.level == "error"
    assert check.found.startswith("No server could be started for this check: ")
    assert "192.0.2.1" in check.found


def test_a_server_that_does_not_help(place: Place) -> None:
    """The way itself is closed: that is what is told, once for both."""
    nobody = free_port()
    checks = run_checks(place.settings(voice_stream_url=f"wss://{HOST}:{nobody}"))
    check = named(checks, "webhook round trip")
    assert check.level == "error"
    assert f"a server was started on port {place.port}" in check.found
    assert f"Nobody listens at {HOST} port {nobody}" in check.found
    assert named(checks, "stream round trip").level == "skipped"


def test_wrong_credentials(place: Place) -> None:
    """What depends on them is skipped; everything else is looked at."""
    with place.serving(twilio_auth_token="b" * 32):
        checks = run_checks(place.settings(twilio_auth_token="b" * 32))
    assert not_ok(checks) == {
        "credentials us1": "error",
        "number": "skipped",
        "geographic permissions": "skipped",
    }


def test_no_settings_at_all() -> None:
    """Every line has something to say, and no network is needed for it but that of the clock."""
    checks = run_checks(Settings(twilio_api_base_url="http://127.0.0.1:9"), timeout=1)
    assert not_ok(checks) == {
        "stream URL": "error",
        "public URL": "skipped",
        "Twilio settings": "error",
        "credentials us1": "skipped",
        "clock": "warning",
        "number": "skipped",
        "geographic permissions": "skipped",
        "webhook round trip": "skipped",
        "stream round trip": "skipped",
        **{
            check.name: check.level
            for check in checks
            if check.name in ("speech recognition", "voice") and check.advice
        },
    }
    assert all(check.advice for check in checks if check.level in ("error", "warning"))


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        ("check_stream_url", "stream URL"),
        ("check_twilio_settings", "Twilio settings"),
        ("check_clock", "clock"),
        ("check_number", "number"),
        ("check_countries", "geographic permissions"),
        ("walk_webhook", "webhook round trip"),
        ("walk_stream", "stream round trip"),
        ("check_providers", "speech"),
        ("check_policy", "policy"),
    ],
)
def test_a_check_that_fails_stops_no_other(
    broken: str, name: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It becomes an error line, without secrets and numbers."""

    def fail(*arguments: Any) -> Any:
        raise ZeroDivisionError(f"with {place.fake.auth_token} and +358401234567")

    monkeypatch.setattr(doctor, broken, fail)
    with place.serving():
        checks = run_checks(place.settings())
    assert not_ok(checks) == {name: "error"}
    found = named(checks, name).found
    assert (
        found == "Expected an answer to judge; the check itself failed with ZeroDivisionError: with *** and +358…67."
    )


@pytest.mark.parametrize(
    ("status", "level", "advice"),
    [(401, "warning", "restricted API key"), (503, "error", "status.twilio.com"), (None, "error", "firewall")],
)
def test_twilio_does_not_tell(
    status: int | None, level: str, advice: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that may not look are a warning; what fails is an error."""

    def fail(*arguments: Any) -> Any:
        raise RestError("Looking for the number failed.", status=status)

    monkeypatch.setattr(doctor, "check_number", fail)
    with place.serving():
        check = named(run_checks(place.settings()), "number")
    assert check.level == level
    assert advice in check.advice


def test_no_secret_in_anything_that_is_said(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Right or wrong, with every kind of credential there is; nor in the log."""
    place.fake.api_keys["SK" + "2" * 32] = "topsecret-api"
    secrets = {
        "twilio_api_key": "SK" + "2" * 32,
        "twilio_api_secret": "topsecret-api",
        "twilio_shared_keys": "SH1=topsecret-shared",
        "twilio_regions": {"ie1": {"edge": "dublin", "auth_token": "topsecret-region"}},
        "elevenlabs_api_key": "topsecret-eleven",
        "voice_stream_url": f"wss://topsecret-user:topsecret-password@{place.base}",
        "voice_public_url": f"https://{place.base}",
    }
    with caplog.at_level(logging.DEBUG):
        checks = run_checks(place.settings(**secrets), timeout=2)
    said = "".join(check.found + check.advice for check in checks) + caplog.text
    assert "topsecret" not in said
    assert place.fake.auth_token not in said
    assert NUMBER not in said


def test_slow_twilio_is_waited_for_no_longer_than_said(place: Place) -> None:
    """Every step has its deadline."""
    place.fake.faults.rest_slow_s = 1.5
    with place.serving():
        checks = run_checks(place.settings(), timeout=0.5)
    assert not_ok(checks) == {
        "credentials us1": "error",
        "clock": "warning",
        "number": "skipped",
        "geographic permissions": "skipped",
    }
