"""The fake's requests to an app: how they are signed, and what becomes of those that fail."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone
from voice_runtime.transports.twilio_signature import SignatureValidator

from .conftest import OURS
from .echo_app import HOST, EchoApp

THEM = "+4930123456"
VOICE = f"https://{HOST}/twilio/voice"


def call(fake: FakeTwilio) -> FakeCall:
    placed = fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=1))
    placed.wait_ended(100)
    return placed


def test_every_request_is_signed(fake: FakeTwilio, app: EchoApp) -> None:
    """Webhook, callback and handshake pass the validator of the real package, blank values and all."""
    fake.numbers[OURS].status_callback = f"https://{HOST}/status?a=b%20c"
    call(fake)
    assert [(path, valid) for path, _, valid in app.requests] == [("/twilio/voice", True), ("/status", True)]
    assert app.handshakes == [(f"wss://{HOST}/voice", True)]
    headers = app.headers[0]
    assert headers["content-type"] == "application/x-www-form-urlencoded; charset=UTF-8"
    assert headers["user-agent"] == "TwilioProxy/1.1"
    assert headers["i-twilio-idempotency-token"]
    assert headers["host"] == HOST


@pytest.mark.parametrize("mode", ["wrong", "missing", "secondary", "shared_key"])
def test_signatures_can_be_anything_else(fake: FakeTwilio, app: EchoApp, mode: str) -> None:
    """A wrong one, none, one with the secondary token, one with a shared key: the app that checks refuses them."""
    fake.faults.signature = mode  # type: ignore[assignment]
    placed = call(fake)
    assert not app.requests[0][2]
    assert fake.warnings(placed) == [31920], "the handshake was refused"
    headers = app.headers[0]
    assert ("x-twilio-signature" in headers) == (mode != "missing")
    form = urlencode(app.requests[0][1]).encode()
    secondary = SignatureValidator([fake.secondary_auth_token])
    shared = SignatureValidator([], dict([fake.shared_key]))
    assert secondary.valid_form(VOICE, form, headers) == (mode == "secondary")
    assert shared.valid_form(VOICE, form, headers) == (mode == "shared_key")


def test_a_webhook_that_fails_has_a_fallback(fake: FakeTwilio, app: EchoApp) -> None:
    """The fallback is told the error and its document is executed; without one the caller hears a prompt."""
    fake.numbers[OURS].voice_url = f"https://{HOST}/nothing"
    fake.numbers[OURS].voice_fallback_url = f"https://{HOST}/fallback"
    app.twiml["/fallback"] = "<Response><Say>Sorry</Say></Response>"
    placed = call(fake)
    assert placed.said == ["Sorry"]
    assert fake.warnings(placed) == [11200]
    assert app.forms("/fallback")[0]["ErrorCode"] == "11200"
    assert app.forms("/fallback")[0]["ErrorUrl"] == f"https://{HOST}/nothing"
    fake.numbers[OURS].voice_fallback_url = ""
    placed = fake.place_call(from_=THEM)
    assert placed.wait_ended() == "completed"
    assert placed.status_history[-1][0] - placed.status_history[0][0] == pytest.approx(3)


@pytest.mark.parametrize(
    ("fault", "code", "seconds"),
    [("webhook_502", 11200, 0), ("webhook_timeout", 11200, 15), ("webhook_refused", 11205, 0)],
)
def test_webhooks_may_not_reach_the_app(
    fake: FakeTwilio, app: EchoApp, fault: str, code: int, seconds: float
) -> None:
    """A proxy's 502, fifteen seconds of nothing, nobody listening twice: each with its code."""
    setattr(fake.faults, fault, 2)
    placed = fake.place_call(from_=THEM)
    placed.wait_ended()
    assert fake.warnings(placed) == [code]
    assert app.requests == []
    assert placed.status_history[1][0] - placed.status_history[0][0] == pytest.approx(seconds)


def test_one_refused_connection_is_retried(fake: FakeTwilio, app: EchoApp) -> None:
    """The second attempt reaches the app."""
    fake.faults.webhook_refused = 1
    assert fake.warnings(call(fake)) == []
    assert len(app.requests) == 1


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        ("application/json", "{}", 12300),
        ("text/xml", "<Response>", 12100),
        ("text/xml", "<Response>" + "x" * 66_000 + "</Response>", 11750),
    ],
)
def test_answers_that_are_not_twiml(fake: FakeTwilio, app: EchoApp, content_type: str, body: str, code: int) -> None:
    """Each has its code, and ends the call after a prompt."""
    app.content_type = content_type
    app.twiml["/twilio/voice"] = body
    placed = fake.place_call(from_=THEM)
    assert placed.wait_ended() == "completed"
    assert fake.warnings(placed) == [code]


def test_an_exception_in_the_app_is_a_500(fake: FakeTwilio, app: EchoApp) -> None:
    """Which is 11200 to Twilio."""

    async def broken(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("broken")

    fake.mount("broken.example.com", broken)
    fake.numbers[OURS].voice_url = "https://broken.example.com/voice"
    placed = fake.place_call(from_=THEM)
    placed.wait_ended()
    assert fake.warnings(placed) == [11200]


def test_the_socket_may_be_refused(fake: FakeTwilio, app: EchoApp) -> None:
    """Nobody listening is 31902, a proxy's 403 is 31920, the app's own refusal too; the call goes on behind it."""
    app.twiml["/twilio/voice"] = app.twiml["/twilio/voice"].replace("</Response>", "<Say>Sorry</Say></Response>")
    fake.faults.socket_refused = 1
    placed = call(fake)
    assert (fake.warnings(placed), placed.said) == ([31902], ["Sorry"])
    fake.faults.handshake_403 = 1
    assert fake.warnings(call(fake)) == [31920]
    assert app.handshakes == []
    app.auth_token = "another"
    assert fake.warnings(call(fake)) == [31920]
    assert len(app.handshakes) == 1
