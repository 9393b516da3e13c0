"""Text messages as the real ``twilio`` package and an app's webhooks see them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_resources import segments

from .conftest import OURS
from .echo_app import HOST, EchoApp

THEM = "+4930123456"
SECOND_NUMBER = "+15005550010"
STATUS = f"https://{HOST}/status"
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "twilio_vectors.json").read_text())


def send(client: Client, **more: Any) -> Any:
    return client.messages.create(**{"to": THEM, "from_": OURS, "body": "Hi", **more})


def send_by(client: Client, service: str, **more: Any) -> Any:
    return client.messages.create(**{"to": THEM, "messaging_service_sid": service, "body": "Hi", **more})


def schedule(client: Client, clock: VirtualClock, service: str, seconds: float, **more: Any) -> Any:
    at = datetime.fromtimestamp(clock.time(), UTC) + timedelta(seconds=seconds)
    return send_by(client, service, schedule_type="fixed", send_at=at, **more)


def code_of(what: Any) -> tuple[int, int]:
    """(HTTP status, code) of the TwilioRestException that calling this raises."""
    with pytest.raises(TwilioRestException) as caught:
        what()
    return caught.value.status, caught.value.code


def told(app: EchoApp) -> list[str]:
    """The statuses the app was told, in the order it heard them."""
    return [form["MessageStatus"] for form in app.forms("/status")]


# -- from a number ----------------------------------------------------------------------------------------------


def test_a_message_is_sent_and_delivered(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """It begins queued, which is not told; sent and delivered are, in callbacks as the real ones."""
    message = send(client, status_callback=STATUS)
    assert fake.log.entries("rest")[-1].data["answer"].keys() == VECTORS["rest"]["message_created_201"].keys()
    assert (message.status, message.num_segments, message.num_media) == ("queued", "1", "0")
    clock.sleep(2)
    assert client.messages(message.sid).fetch().status == "delivered"
    assert told(app) == ["sent", "delivered"]
    assert app.forms("/status")[0].keys() == {
        key.split("=")[0] for key in VECTORS["message_status_callbacks"][0]["body"].split("&")
    }
    assert [(m.to, m.body) for m in fake.messages] == [(THEM, "Hi")]
    assert [m.sid for m in client.messages.list(to=THEM)] == [message.sid]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"to": "+15005550001"}, 21211),
        ({"to": "+15005550002"}, 21612),
        ({"to": "+15005550003"}, 21408),
        ({"to": "+15005550004"}, 21610),
        ({"to": "+15005550009"}, 21614),
        ({"to": "12"}, 21211),
        ({"to": ""}, 21604),
        ({"from_": "+15005550007"}, 21606),
        ({"from_": "+15005550008"}, 21611),
        ({"from_": "+15005550001"}, 21212),
        ({"from_": "+358400000000"}, 21606),
        ({"from_": ""}, 21603),
        ({"from_": "MG12"}, 21705),
        ({"from_": "MG" + "0" * 32}, 21701),
        ({"messaging_service_sid": "MG" + "0" * 32}, 21701),
        ({"body": ""}, 21602),
        ({"body": "x" * 1601}, 21617),
        ({"status_callback": "status"}, 21609),
    ],
)
def test_bad_messages_are_refused(
    fake: FakeTwilio, app: EchoApp, client: Client, changed: dict[str, Any], code: int
) -> None:
    """Each mistake and each magic number has its code, and leaves no message."""
    assert code_of(lambda: send(client, **changed)) == (400, code)
    assert fake.messages == []


@pytest.mark.parametrize("example", VECTORS["sms_segments"], ids=lambda example: example["name"])
def test_segments_are_counted(example: dict[str, Any]) -> None:
    """Septets of GSM-7, or UTF-16 units."""
    if example["accepted"]:
        assert segments(example["text"]) == example["segments"]


def test_a_full_queue_refuses(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """21611 as often as asked for; nothing is sent for it."""
    fake.faults.message_queue_full = 1
    assert code_of(lambda: send(client)) == (400, 21611)
    assert fake.messages == []
    assert send(client).status == "queued"


@pytest.mark.parametrize(
    ("fault", "statuses", "code"),
    [("undelivered_code", ["sent", "undelivered"], 30003), ("failed_code", ["failed"], 30007)],
)
def test_messages_that_do_not_arrive(
    fake: FakeTwilio,
    app: EchoApp,
    client: Client,
    clock: VirtualClock,
    fault: str,
    statuses: list[str],
    code: int,
) -> None:
    """undelivered after it was sent, failed before; the code is in the resource and in the last callback only."""
    setattr(fake.faults, fault, code)
    message = send(client, status_callback=STATUS)
    clock.sleep(2)
    fetched = client.messages(message.sid).fetch()
    assert (fetched.status, fetched.error_code) == (statuses[-1], code)
    assert told(app) == statuses
    assert [form.get("ErrorCode") for form in app.forms("/status")] == [None] * (len(statuses) - 1) + [str(code)]


# -- callbacks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ({"duplicate_callbacks": True}, ["sent", "sent", "delivered", "delivered"]),
        ({"reorder_callbacks": True}, ["delivered", "sent"]),
        ({"drop_callbacks": True}, []),
    ],
)
def test_callbacks_go_astray(
    fake: FakeTwilio,
    app: EchoApp,
    client: Client,
    clock: VirtualClock,
    faults: dict[str, bool],
    expected: list[str],
) -> None:
    """Twice, in the wrong order, or never; the message is delivered all the same."""
    for name, value in faults.items():
        setattr(fake.faults, name, value)
    message = send(client, status_callback=STATUS)
    clock.sleep(2)
    assert told(app) == expected
    assert client.messages(message.sid).fetch().status == "delivered"


def test_callbacks_are_delayed(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """They come later; what they tell happens when it does."""
    fake.faults.callback_delay_ms = 10_000
    message = send(client, status_callback=STATUS)
    clock.sleep(2)
    assert (client.messages(message.sid).fetch().status, told(app)) == ("delivered", [])
    clock.sleep(20)
    assert told(app) == ["sent", "delivered"]


def test_the_callback_may_be_faster_than_the_answer(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The first callback has been delivered when messages.create() returns what was true before it."""
    fake.faults.early_callback = True
    message = send(client, status_callback=STATUS)
    assert message.status == "queued"
    assert [(form["MessageSid"], form["MessageStatus"]) for form in app.forms("/status")] == [(message.sid, "sent")]


def test_a_callback_nobody_takes(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """The debugger has it: 11200; the message does not mind."""
    message = send(client, status_callback=f"https://{HOST}/nowhere")
    clock.sleep(2)
    assert fake.log.codes(message.sid) == [11200, 11200]
    assert client.messages(message.sid).fetch().status == "delivered"


# -- messaging services -----------------------------------------------------------------------------------------


def test_a_service_picks_the_sender(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """accepted without sender and segments, until it is queued from a number of the pool; all of it is told."""
    fake.add_number(SECOND_NUMBER)
    service = fake.add_messaging_service(SECOND_NUMBER)
    message = send_by(client, service, body="x" * 161, status_callback=STATUS)
    assert (message.status, message.num_segments, message.from_) == ("accepted", "0", None)
    assert message.messaging_service_sid == service
    clock.sleep(2)
    fetched = client.messages(message.sid).fetch()
    assert (fetched.status, fetched.num_segments, fetched.from_) == ("delivered", "2", SECOND_NUMBER)
    assert told(app) == ["queued", "sent", "delivered"]
    assert {(form["From"], form["MessagingServiceSid"]) for form in app.forms("/status")} == {
        (SECOND_NUMBER, service)
    }


def test_a_service_without_a_pool_of_its_own(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """It sends from the account's numbers; From may name one of them, or the service itself."""
    service = fake.add_messaging_service()
    assert fake.messaging_services == {service: []}
    assert send_by(client, service, from_=OURS).status == "accepted"
    assert send(client, from_=service).messaging_service_sid == service
    clock.sleep(2)
    assert [message.from_ for message in fake.messages] == [OURS, OURS]
    assert code_of(lambda: send_by(client, service, from_=SECOND_NUMBER)) == (400, 21606)
    fake.numbers.clear()
    assert code_of(lambda: send_by(client, service)) == (400, 21703)


def test_the_queue_of_a_service_is_full(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """The message is taken, and fails with 30001."""
    fake.faults.message_queue_full = 1
    message = send_by(client, fake.add_messaging_service(), status_callback=STATUS)
    clock.sleep(2)
    assert [(form["MessageStatus"], form["ErrorCode"]) for form in app.forms("/status")] == [("failed", "30001")]
    assert client.messages(message.sid).fetch().error_code == 30001


# -- scheduled --------------------------------------------------------------------------------------------------


def test_a_scheduled_message_waits(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """It is scheduled to the second of its time, then goes the way of all messages."""
    message = schedule(client, clock, fake.add_messaging_service(), 3600, status_callback=STATUS)
    assert (message.status, message.num_segments) == ("scheduled", "0")
    clock.sleep(3599)
    assert client.messages(message.sid).fetch().status == "scheduled"
    assert told(app) == []
    clock.sleep(3)
    assert client.messages(message.sid).fetch().status == "delivered"
    assert told(app) == ["queued", "sent", "delivered"]


def test_a_scheduled_message_is_cancelled(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """It is told and final, also when its time has come; cancelling again is 30409."""
    message = schedule(client, clock, fake.add_messaging_service(), 3600, status_callback=STATUS)
    assert client.messages(message.sid).update(status="canceled").status == "canceled"
    assert code_of(lambda: client.messages(message.sid).update(status="canceled")) == (409, 30409)
    clock.sleep(7200)
    assert client.messages(message.sid).fetch().status == "canceled"
    assert told(app) == ["canceled"]


def test_what_cannot_be_cancelled(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """A message that was never scheduled, or is sent already: 30409; an unknown one: 20404; another status: 20001."""
    now = send(client)
    assert code_of(lambda: client.messages(now.sid).update(status="canceled")) == (409, 30409)
    later = schedule(client, clock, fake.add_messaging_service(), 300)
    clock.sleep(302)
    assert code_of(lambda: client.messages(later.sid).update(status="canceled")) == (409, 30409)
    assert code_of(lambda: client.messages("SM" + "0" * 32).update(status="canceled")) == (404, 20404)
    assert code_of(lambda: client.messages(now.sid).update(status="sent")) == (400, 20001)


@pytest.mark.parametrize(("seconds", "accepted"), [(299, False), (300, True), (3_024_000, True), (3_024_001, False)])
def test_how_far_ahead_a_message_is_scheduled(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock, seconds: int, accepted: bool
) -> None:
    """Five minutes to 35 days, inclusive."""
    service = fake.add_messaging_service()
    if accepted:
        assert schedule(client, clock, service, seconds).status == "scheduled"
    else:
        assert code_of(lambda: schedule(client, clock, service, seconds)) == (400, 35114)


def test_schedules_that_are_none(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """Without a time, with a time that is none, of another type, or without a messaging service."""
    service = fake.add_messaging_service()
    at = datetime.fromtimestamp(clock.time(), UTC) + timedelta(hours=1)
    assert code_of(lambda: send_by(client, service, schedule_type="fixed")) == (400, 35111)
    assert code_of(lambda: send_by(client, service, schedule_type="fixed", send_at="tomorrow")) == (400, 35114)
    assert code_of(lambda: send_by(client, service, schedule_type="hourly", send_at=at)) == (400, 35126)
    assert code_of(lambda: send(client, schedule_type="fixed", send_at=at)) == (400, 35118)
    assert fake.messages == []


def test_an_opt_out_meets_a_scheduled_message(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """It stays scheduled, and fails with 21610 when its time has come."""
    message = schedule(client, clock, fake.add_messaging_service(), 600)
    app.twiml["/sms"] = "<Response/>"
    fake.send_message(from_=THEM, body="STOP")
    assert client.messages(message.sid).fetch().status == "scheduled"
    clock.sleep(601)
    fetched = client.messages(message.sid).fetch()
    assert (fetched.status, fetched.error_code) == ("failed", 21610)


# -- opt-outs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["Stop", "STOPALL", "unsubscribe", "cancel", " end\n", "QUIT", "revoke", "OptOut"])
def test_a_recipient_opts_out(fake: FakeTwilio, app: EchoApp, client: Client, word: str) -> None:
    """21610 until START; the app is asked for an answer as for any message."""
    app.twiml["/sms"] = "<Response/>"
    message = fake.send_message(from_=THEM, body=word)
    assert code_of(lambda: send(client)) == (400, 21610)
    assert [form["Body"] for form in app.forms("/sms")] == [word]
    assert fake.log.texts("keyword", message.sid) == ["stop"]
    fake.send_message(from_=THEM, body="start")
    assert send(client).status == "queued"


def test_only_the_word_itself_opts_out(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Neither a sentence with it nor HELP; another recipient and another sender are not concerned."""
    app.twiml["/sms"] = "<Response/>"
    fake.add_number(SECOND_NUMBER)
    for body in ("Please stop", "help"):
        fake.send_message(from_=THEM, body=body)
        assert send(client).status == "queued"
    fake.send_message(from_=THEM, body="stop")
    assert send(client, to="+4930123457").status == "queued"
    assert send(client, from_=SECOND_NUMBER).status == "queued"
    assert fake.log.texts("keyword") == ["help", "stop"]


def test_an_opt_out_holds_for_the_whole_service(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Who stops one number of the pool has stopped the service; another service is not concerned."""
    app.twiml["/sms"] = "<Response/>"
    fake.add_number(SECOND_NUMBER)
    service, other = fake.add_messaging_service(SECOND_NUMBER, OURS), fake.add_messaging_service(SECOND_NUMBER)
    fake.send_message(from_=THEM, body="stop")
    assert code_of(lambda: send_by(client, service)) == (400, 21610)
    assert send_by(client, other).status == "accepted"


def test_a_reply_to_stop_is_not_sent(fake: FakeTwilio, app: EchoApp) -> None:
    """The debugger has 21610 instead."""
    app.twiml["/sms"] = "<Response><Message>Why?</Message></Response>"
    message = fake.send_message(from_=THEM, body="STOP")
    assert fake.log.codes(message.sid) == [21610]
    assert [m.direction for m in fake.messages] == ["inbound"]


# -- in ---------------------------------------------------------------------------------------------------------


def test_inbound_messages_may_be_answered(fake: FakeTwilio, app: EchoApp) -> None:
    """The webhook is signed and complete; <Message> in its answer is sent back."""
    app.twiml["/sms"] = "<Response><Message>Thanks</Message></Response>"
    fake.send_message(from_=THEM, body="päivää")
    path, form, valid = app.requests[-1]
    assert (path, valid) == ("/sms", True)
    assert (form["Body"], form["From"], form["To"], form["NumMedia"]) == ("päivää", THEM, OURS, "0")
    assert (form["FromCountry"], form["FromCity"]) == ("DE", "")
    assert [(m.direction, m.to, m.body) for m in fake.messages] == [
        ("inbound", OURS, "päivää"),
        ("outbound-reply", THEM, "Thanks"),
    ]


def test_an_inbound_message_with_pictures(fake: FakeTwilio, app: EchoApp) -> None:
    """It is an MM, and every attachment has a URL and a type; a number in a service names it."""
    app.twiml["/sms"] = "<Response/>"
    service = fake.add_messaging_service(OURS)
    media = [("https://api.twilio.com/a", "image/jpeg"), ("https://api.twilio.com/b", "image/png")]
    message = fake.send_message(from_=THEM, body="", media=media)
    form = app.forms("/sms")[0]
    assert message.sid.startswith("MM")
    assert form["NumMedia"] == "2"
    assert [(form[f"MediaUrl{i}"], form[f"MediaContentType{i}"]) for i in range(2)] == media
    assert form["MessagingServiceSid"] == service


def test_a_reply_has_callbacks_of_its_own(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> None:
    """statusCallback may be relative, text may stand in <Body>, and somebody else may get it."""
    app.twiml["/sms"] = (
        '<Response><Message to="+4930123457" statusCallback="/status"><Body>Thanks</Body></Message></Response>'
    )
    fake.send_message(from_=THEM, body="Hi")
    clock.sleep(2)
    assert [(form["MessageStatus"], form["To"]) for form in app.forms("/status")] == [
        ("sent", "+4930123457"),
        ("delivered", "+4930123457"),
    ]
    assert fake.messages[-1].body == "Thanks"


@pytest.mark.parametrize("text", ["", "x" * 1601])
def test_a_reply_nobody_can_send(fake: FakeTwilio, app: EchoApp, text: str) -> None:
    """14103 for an empty and for an oversized one."""
    app.twiml["/sms"] = f"<Response><Message>{text}</Message></Response>"
    message = fake.send_message(from_=THEM, body="Hi")
    assert fake.log.codes(message.sid) == [14103]
    assert len(fake.messages) == 1


def test_redacting_and_deleting(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """An empty body takes the text away; a deleted message is gone."""
    message = send(client)
    assert client.messages(message.sid).update(body="").body == ""
    assert client.messages(message.sid).delete() is True
    assert code_of(lambda: client.messages(message.sid).fetch()) == (404, 20404)
