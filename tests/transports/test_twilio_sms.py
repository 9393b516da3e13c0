"""Text messages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transports.rest_server import Answer, RestServer
from voice_runtime.config import Settings, load
from voice_runtime.exceptions import ConfigurationError, InvalidNumberError, RestError
from voice_runtime.transports.twilio_rest import close_clients
from voice_runtime.transports.twilio_sms import SmsSegments, TwilioSms, count_segments

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
ACCOUNT = "AC" + "0" * 31 + "1"
CREATED = Answer(201, VECTORS["rest"]["message_created_201"])


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting from outside, and no connection left open."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    close_clients()


def settings_for(server: RestServer) -> Settings:
    return load(
        twilio_account_sid=ACCOUNT,
        twilio_auth_token="token",
        twilio_phone_number="+15005550006",
        twilio_api_base_url=server.url,
    )


def test_a_message_as_the_readme_sends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the three documented variables a text goes out, and three facts come back."""
    with RestServer(CREATED) as server:
        monkeypatch.setenv("TWILIO_ACCOUNT_SID", ACCOUNT)
        monkeypatch.setenv("TWILIO_AUTH_TOKEN", "token")
        monkeypatch.setenv("TWILIO_PHONE_NUMBER", "+15005550006")
        monkeypatch.setenv("TWILIO_API_BASE_URL", server.url)
        result = TwilioSms().send_sms(to="+49 30 123456", body="Hi \u20ac & \U0001f44d")
    assert result == {"message_sid": "SM" + "0" * 31 + "1", "status": "queued", "to": "+4930123456"}
    (request,) = server.requests
    assert request.path == f"/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
    assert request.form == {"To": ["+4930123456"], "From": ["+15005550006"], "Body": ["Hi \u20ac & \U0001f44d"]}


def test_another_sender() -> None:
    """An alphanumeric sender replaces the account's number."""
    with RestServer(CREATED) as server:
        TwilioSms(settings_for(server), sender="Bistro").send_sms("+4930123456", "Hi")
    assert server.requests[0].form["From"] == ["Bistro"]


@pytest.mark.parametrize(
    ("to", "body", "error", "complaint"),
    [
        ("+4930123456", "", ValueError, "it is empty"),
        ("+4930123456", " \n", ValueError, "it is empty"),
        ("+4930123456", "x" * 1601, ValueError, r"at most 1600 characters; 1601 came \(11 segments\)"),
        ("030123456", "Hi", InvalidNumberError, "country code"),
        ("sip:desk@example.com", "Hi", InvalidNumberError, "letters"),
    ],
)
def test_what_cannot_be_sent_is_refused_before_the_request(
    to: str, body: str, error: type[Exception], complaint: str
) -> None:
    """Nothing is requested for an empty or oversized text, or for something that is not a number."""
    with RestServer(CREATED) as server, pytest.raises(error, match=complaint):
        TwilioSms(settings_for(server)).send_sms(to=to, body=body)
    assert server.requests == []


def test_1600_characters_are_sent() -> None:
    """The longest text Twilio takes goes out."""
    with RestServer(CREATED) as server:
        TwilioSms(settings_for(server)).send_sms(to="+4930123456", body="x" * 1600)
    assert len(server.requests[0].form["Body"][0]) == 1600


def test_a_missing_sender_is_named() -> None:
    """Without a number of ours the variable is named."""
    with pytest.raises(ConfigurationError, match="TWILIO_PHONE_NUMBER"):
        TwilioSms(load(twilio_account_sid=ACCOUNT, twilio_auth_token="t")).send_sms(to="+4930123456", body="Hi")


@pytest.mark.parametrize(
    ("answer", "status", "code", "maybe_done"),
    [
        (Answer(400, {"code": 21610, "message": "Unsubscribed", "status": 400}), 400, 21610, False),
        (Answer(500, {"message": "sorry"}), 500, None, True),
        (Answer(201, {}), None, None, True),
        (Answer(201, "[]"), None, None, True),
    ],
)
def test_failures(answer: Answer, status: int | None, code: int | None, maybe_done: bool) -> None:
    """Every failure is a RestError that says whether the text may be on its way; it is requested once."""
    with RestServer(answer) as server, pytest.raises(RestError) as caught:
        TwilioSms(settings_for(server)).send_sms(to="+4930123456", body="Hi")
    assert (caught.value.status, caught.value.code, caught.value.maybe_done) == (status, code, maybe_done)
    assert len(server.requests) == 1


@pytest.mark.parametrize("vector", VECTORS["sms_segments"], ids=lambda vector: vector["name"])
def test_the_published_segment_counts(vector: dict[str, Any]) -> None:
    """Encoding, units and segments are counted as Twilio bills them."""
    assert count_segments(vector["text"]) == SmsSegments(
        encoding=vector["encoding"], units=vector["units"], segments=vector["segments"]
    )


def test_a_character_is_not_cut_in_two() -> None:
    """A pair of units that would cross a segment's end moves to the next segment as a whole."""
    assert count_segments("") == SmsSegments(encoding="GSM-7", units=0, segments=0)
    assert count_segments("a" * 152 + "\u20ac" + "a" * 152).segments == 3
    assert count_segments("a" * 151 + "\u20ac" + "a" * 153).segments == 2
    assert count_segments("\u0414" + "\U0001f44d" * 66).segments == 2
    assert count_segments("\U0001f44d" * 67).segments == 3


@given(st.text(max_size=400))
def test_segments_hold_the_text(body: str) -> None:
    """There are enough segments for all units, and at most one unit is lost at each segment's end."""
    count = count_segments(body)
    alone, joined = (160, 153) if count.encoding == "GSM-7" else (70, 67)
    if count.segments <= 1:
        assert count.units <= alone
    else:
        assert count.units > alone
        assert (count.segments - 1) * (joined - 1) < count.units <= count.segments * joined
    if count.encoding == "UCS-2":
        assert count.units == len(body.encode("utf-16-le", "surrogatepass")) // 2
