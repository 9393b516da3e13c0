"""Text messages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transports.rest_server import Answer, RestServer
from voice_runtime.clock import Clock, SystemClock
from voice_runtime.config import Settings, load
from voice_runtime.exceptions import ConfigurationError, InvalidNumberError, OptedOutError, RestError
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.transports import twilio_rest
from voice_runtime.transports.twilio_rest import close_clients
from voice_runtime.transports.twilio_sms import SmsResult, SmsSegments, TwilioSms, count_segments

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
ACCOUNT = "AC" + "0" * 31 + "1"
CREATED = Answer(201, VECTORS["rest"]["message_created_201"])
OURS = "+15005550006"
THEM = "+4930123456"
SERVICE = "MG" + "0" * 31 + "1"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting from outside, and no connection left open."""
    for name in list(os.environ):
        if name.lower() in Settings.model_fields or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    close_clients()


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def fake(clock: VirtualClock) -> Iterator[FakeTwilio]:
    fake = FakeTwilio(clock=clock)
    fake.add_number(OURS)
    with fake.running():
        yield fake
        close_clients()


def sms_of(fake: FakeTwilio, clock: Clock, *, sender: str | None = None, **settings: Any) -> TwilioSms:
    """Sends through the fake; from its number, unless settings say otherwise."""
    configured = load(
        twilio_account_sid=fake.account_sid,
        twilio_auth_token=fake.auth_token,
        twilio_phone_number=OURS,
        twilio_api_base_url=fake.api_base_url,
        **settings,
    )
    return TwilioSms(configured, sender=sender, clock=clock)


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


def test_the_result_tells_more_than_its_keys() -> None:
    """It is a plain dict with attributes: Twilio's three facts, and how the text travels."""
    with RestServer(CREATED) as server:
        result = TwilioSms(settings_for(server)).send_sms(to=THEM, body="x" * 161)
    assert (result.message_sid, result.status, result.to) == ("SM" + "0" * 31 + "1", "queued", THEM)
    assert result.segments == SmsSegments(encoding="GSM-7", units=161, segments=2)
    assert json.loads(json.dumps(result)) == {"message_sid": result.message_sid, "status": "queued", "to": THEM}
    assert dict(result) == result
    assert isinstance(result, SmsResult)


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
        ("+4930123456", "Hi \ud83d", ValueError, "half of a UTF-16 pair"),
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
    """Without a number of ours the variable is named, and the other one that would do."""
    with pytest.raises(ConfigurationError, match=r"TWILIO_PHONE_NUMBER .*TWILIO_MESSAGING_SERVICE_SID"):
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


# -- who sends --------------------------------------------------------------------------------------------------


def test_a_messaging_service_sends() -> None:
    """The one of the settings comes before the number, the one given before that, a sender before all."""
    with RestServer(CREATED) as server:
        settings = load(
            twilio_account_sid=ACCOUNT,
            twilio_auth_token="token",
            twilio_phone_number=OURS,
            twilio_messaging_service_sid=SERVICE,
            twilio_api_base_url=server.url,
        )
        other = "MG" + "a" * 32
        TwilioSms(settings).send_sms(THEM, "Hi")
        TwilioSms(settings, messaging_service=other).send_sms(THEM, "Hi")
        TwilioSms(settings, sender="Bistro").send_sms(THEM, "Hi")
    common = {"To": [THEM], "Body": ["Hi"]}
    assert [request.form for request in server.requests] == [
        {**common, "MessagingServiceSid": [SERVICE]},
        {**common, "MessagingServiceSid": [other]},
        {**common, "From": ["Bistro"]},
    ]


def test_a_sender_that_cannot_be() -> None:
    """Both kinds at once, one in the place of the other, and a SID that is none are explained when it is made."""
    with pytest.raises(ConfigurationError, match=r"both given.*its own pool"):
        TwilioSms(sender="Bistro", messaging_service=SERVICE)
    with pytest.raises(ConfigurationError, match="give it as messaging_service="):
        TwilioSms(sender=SERVICE)
    with pytest.raises(ConfigurationError, match="messaging_service is 'Bistro'; expected MG followed by 32"):
        TwilioSms(messaging_service="Bistro")


def test_a_setting_that_is_no_service() -> None:
    """The variable is named; nothing is requested."""
    settings = load(twilio_account_sid=ACCOUNT, twilio_auth_token="t", twilio_messaging_service_sid="MG1")
    with pytest.raises(ConfigurationError, match="TWILIO_MESSAGING_SERVICE_SID is 'MG1'; expected MG"):
        TwilioSms(settings).send_sms(THEM, "Hi")


def test_a_service_takes_the_message(fake: FakeTwilio, clock: VirtualClock) -> None:
    """It is accepted, and its segments are known although Twilio does not know them yet."""
    sms = sms_of(fake, clock, twilio_messaging_service_sid=fake.add_messaging_service())
    result = sms.send_sms(THEM, "x" * 161)
    assert (result.status, result.segments.segments) == ("accepted", 2)
    clock.sleep(2)
    assert [(m.from_, m.segments, m.status) for m in fake.messages] == [(OURS, 2, "delivered")]


# -- never twice ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "value"), [("rest_500_after", 1), ("rest_reset", 1), ("rest_slow_s", 0.5)])
def test_what_may_be_sent_is_not_sent_again(
    fake: FakeTwilio, clock: VirtualClock, monkeypatch: pytest.MonkeyPatch, fault: str, value: float
) -> None:
    """A 500, a broken connection and no answer in time are told as such; there is one message."""
    monkeypatch.setattr(twilio_rest, "REQUEST_TIMEOUT_SECONDS", 0.2)
    setattr(fake.faults, fault, value)
    with pytest.raises(RestError) as caught:
        sms_of(fake, clock).send_sms(THEM, "Hi")
    assert caught.value.maybe_done
    assert len(fake.messages) == 1


def test_a_busy_twilio_is_asked_again(fake: FakeTwilio, clock: VirtualClock) -> None:
    """After 429, which sends nothing, the message goes out, once; after too many of them it does not."""
    fake.faults.retry_after_s = 0
    fake.faults.rest_429 = 2
    assert sms_of(fake, clock).send_sms(THEM, "Hi").status == "queued"
    assert len(fake.messages) == 1
    fake.faults.rest_429 = 100
    with pytest.raises(RestError) as caught:
        sms_of(fake, clock).send_sms(THEM, "Hi")
    assert (caught.value.code, caught.value.maybe_done) == (20429, False)
    assert len(fake.messages) == 1


def test_a_full_queue_is_told(fake: FakeTwilio, clock: VirtualClock) -> None:
    """21611 is a RestError: nothing was sent."""
    fake.faults.message_queue_full = 1
    with pytest.raises(RestError) as caught:
        sms_of(fake, clock).send_sms(THEM, "Hi")
    assert (caught.value.code, caught.value.maybe_done, fake.messages) == (21611, False, [])


# -- opt-outs ---------------------------------------------------------------------------------------------------


def test_somebody_who_wrote_stop(fake: FakeTwilio, clock: VirtualClock) -> None:
    """A typed error with the number, which the text does not show; after START messages go out again."""
    sms = sms_of(fake, clock)
    fake.send_message(from_=THEM, body="stop")
    with pytest.raises(OptedOutError, match="writing START") as caught:
        sms.send_sms("+49 30 123456", "Hi")
    error = caught.value
    assert isinstance(error, RestError)
    assert (error.number, error.code, error.status, error.maybe_done) == (THEM, 21610, 400, False)
    assert "+493…56" in str(error)
    assert "123456" not in str(error)
    fake.send_message(from_=THEM, body="start")
    assert sms.send_sms(THEM, "Hi").status == "queued"


# -- callbacks --------------------------------------------------------------------------------------------------


def test_the_status_callback_is_asked_for(fake: FakeTwilio, clock: VirtualClock) -> None:
    """Twilio is told the URL, and posts there."""
    url = "https://voice.example.com/status"
    result = sms_of(fake, clock).send_sms(THEM, "Hi", status_callback=url)
    clock.sleep(2)
    callbacks = fake.log.entries("callback", result.message_sid)
    assert [(entry.data["url"], entry.data["form"]["MessageStatus"]) for entry in callbacks] == [
        (url, "sent"),
        (url, "delivered"),
    ]


# -- later, and not at all --------------------------------------------------------------------------------------


def now(clock: VirtualClock) -> datetime:
    return datetime.fromtimestamp(clock.time(), UTC)


def test_a_scheduled_message(fake: FakeTwilio, clock: VirtualClock) -> None:
    """It is sent at its moment, whatever the time zone it is given in, and not before."""
    sms = sms_of(fake, clock, twilio_messaging_service_sid=fake.add_messaging_service())
    at = (now(clock) + timedelta(hours=1)).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert sms.send_sms(THEM, "Hi", send_at=at).status == "scheduled"
    clock.sleep(3599)
    assert fake.messages[0].status == "scheduled"
    clock.sleep(3)
    assert fake.messages[0].status == "delivered"


@pytest.mark.parametrize(("past_the_second", "seconds"), [(0, 300), (0.25, 300), (0, 3_024_000)])
def test_the_ends_of_the_window(fake: FakeTwilio, clock: VirtualClock, past_the_second: float, seconds: int) -> None:
    """Five minutes and 35 days are taken; that Twilio is told whole seconds does not make it too early."""
    clock.sleep(past_the_second)
    sms = sms_of(fake, clock, twilio_messaging_service_sid=fake.add_messaging_service())
    assert sms.send_sms(THEM, "Hi", send_at=now(clock) + timedelta(seconds=seconds)).status == "scheduled"


@pytest.mark.parametrize(
    ("seconds", "came"),
    [(299, "299.0 s from now"), (3_024_001, "3,024,001.0 s from now"), (-60, "60.0 s ago")],
)
def test_moments_out_of_reach(fake: FakeTwilio, clock: VirtualClock, seconds: int, came: str) -> None:
    """They are refused before the request, and it is said how far away they are."""
    sms = sms_of(fake, clock, twilio_messaging_service_sid=fake.add_messaging_service())
    with pytest.raises(ValueError, match=rf"5 minutes.*35 days.*{came}"):
        sms.send_sms(THEM, "Hi", send_at=now(clock) + timedelta(seconds=seconds))
    assert fake.log.entries("rest") == []


def test_a_moment_without_its_time_zone(fake: FakeTwilio, clock: VirtualClock) -> None:
    """It is refused before the request."""
    sms = sms_of(fake, clock, twilio_messaging_service_sid=fake.add_messaging_service())
    with pytest.raises(ValueError, match="with its time zone"):
        sms.send_sms(THEM, "Hi", send_at=(now(clock) + timedelta(hours=1)).replace(tzinfo=None))
    assert fake.log.entries("rest") == []


@pytest.mark.parametrize("sender", [None, "Bistro"])
def test_only_a_service_sends_later(fake: FakeTwilio, clock: VirtualClock, sender: str | None) -> None:
    """From a number it would be refused, or sent at once: it is not even requested."""
    sms = sms_of(fake, clock, sender=sender)
    with pytest.raises(ConfigurationError, match=r"send_at needs a messaging service.*TWILIO_MESSAGING_SERVICE_SID"):
        sms.send_sms(THEM, "Hi", send_at=now(clock) + timedelta(hours=1))
    assert fake.log.entries("rest") == []


def test_twilio_has_the_last_word_on_the_window(fake: FakeTwilio, clock: VirtualClock) -> None:
    """A moment that has become too early on its way is a RestError; nothing was sent."""

    class Behind(SystemClock):
        def time(self) -> float:
            return clock.time() - 1

    sms = sms_of(fake, Behind(), twilio_messaging_service_sid=fake.add_messaging_service())
    with pytest.raises(RestError) as caught:
        sms.send_sms(THEM, "Hi", send_at=now(clock) + timedelta(seconds=299))
    assert (caught.value.code, caught.value.maybe_done, fake.messages) == (35114, False, [])


def test_a_cancelled_message(fake: FakeTwilio, clock: VirtualClock) -> None:
    """True the first time, False the second; it is never sent."""
    sms = sms_of(fake, clock, twilio_messaging_service_sid=fake.add_messaging_service())
    sid = sms.send_sms(THEM, "Hi", send_at=now(clock) + timedelta(hours=1)).message_sid
    assert sms.cancel_sms(sid) is True
    assert sms.cancel_sms(sid) is False
    clock.sleep(7200)
    assert [(m.status, m.sent_at) for m in fake.messages] == [("canceled", None)]


def test_too_late_to_cancel(fake: FakeTwilio, clock: VirtualClock) -> None:
    """False for a message that is on its way, or was never scheduled."""
    sms = sms_of(fake, clock, twilio_messaging_service_sid=fake.add_messaging_service())
    later = sms.send_sms(THEM, "Hi", send_at=now(clock) + timedelta(hours=1)).message_sid
    at_once = sms.send_sms(THEM, "Hi").message_sid
    clock.sleep(3602)
    assert [sms.cancel_sms(later), sms.cancel_sms(at_once)] == [False, False]


def test_what_cannot_be_cancelled(fake: FakeTwilio, clock: VirtualClock) -> None:
    """An unknown message is a RestError, something else than a SID a ValueError before the request."""
    sms = sms_of(fake, clock)
    with pytest.raises(RestError) as caught:
        sms.cancel_sms("SM" + "0" * 32)
    assert (caught.value.status, caught.value.code, caught.value.maybe_done) == (404, 20404, False)
    requests = len(fake.log.entries("rest"))
    for sid in ("", "SM1/../../Calls"):
        with pytest.raises(ValueError, match="expected a message SID, 'SM'"):
            sms.cancel_sms(sid)
    assert len(fake.log.entries("rest")) == requests


def test_cancelling_may_be_repeated(fake: FakeTwilio, clock: VirtualClock) -> None:
    """When the answer is lost the message may be cancelled: asking again says that it is."""
    sms = sms_of(fake, clock, twilio_messaging_service_sid=fake.add_messaging_service())
    sid = sms.send_sms(THEM, "Hi", send_at=now(clock) + timedelta(hours=1)).message_sid
    fake.faults.rest_500_after = 1
    with pytest.raises(RestError) as caught:
        sms.cancel_sms(sid)
    assert caught.value.maybe_done
    assert sms.cancel_sms(sid) is False
    assert fake.messages[0].status == "canceled"


# -- segments ---------------------------------------------------------------------------------------------------


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
