"""The life of a call: states, times, callbacks, redirects, ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone
from voice_runtime.transports.mock_line import LineEnd

from .conftest import OURS
from .echo_app import CONNECT, HOST, EchoApp

THEM = "+4930123456"
VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "twilio_vectors.json").read_text())
ALL_EVENTS = ["initiated", "ringing", "answered", "completed"]


def dial(fake: FakeTwilio, client: Client, phone: Phone | None = None, **more: Any) -> FakeCall:
    """An outbound call with all callbacks."""
    if phone is not None:
        fake.phones[THEM] = phone
    options = {
        "to": THEM,
        "from_": OURS,
        "url": f"https://{HOST}/twilio/voice",
        "status_callback": f"https://{HOST}/status",
        "status_callback_event": ALL_EVENTS,
        **more,
    }
    return fake.call(client.calls.create(**options).sid)


def steps(call: FakeCall) -> list[tuple[float, str]]:
    """Status history, ms since the call was created."""
    begin = call.status_history[0][0]
    return [(round((at - begin) * 1000, 3), status) for at, status in call.status_history]


def keys(body: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}


def hang_up_after(seconds: float) -> Phone:
    def person(call: FakeCall) -> None:
        call.sleep(seconds)
        call.hang_up()

    return Phone(ring_ms=3000, script=person)


def test_an_answered_call(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """queued, initiated, ringing, in-progress, completed, with the times of the real service."""
    call = dial(fake, client, hang_up_after(49))
    assert call.wait_ended(100) == "completed"
    assert steps(call)[:4] == [(0, "queued"), (20, "initiated"), (320, "ringing"), (3320, "in-progress")]
    # 30 ms to the webhook, 365 ms to the stream, 100 ms to its first frame
    assert steps(call)[4] == (3320 + 30 + 365 + 100 + 49_000, "completed")
    webhook = next(entry for entry in call.events if entry.kind == "webhook")
    answered = next(at for at, status in call.status_history if status == "in-progress")
    assert webhook.at_s - answered == pytest.approx(0.03)


@pytest.mark.parametrize("place", range(4))
def test_callbacks_of_an_answered_call(fake: FakeTwilio, app: EchoApp, client: Client, place: int) -> None:
    """Each callback has the fields of the recorded ones; sequence numbers count the steps."""
    dial(fake, client, hang_up_after(48.6)).wait_ended(100)
    example = keys(VECTORS["call_status_callbacks"][0]["bodies"][place])
    form = app.forms("/status")[place]
    assert example.keys() <= form.keys()
    for key in example.keys() - {"AccountSid", "CallSid", "Timestamp"}:
        assert form[key] == example[key], key
    assert form["Timestamp"].endswith(" +0000")
    assert form["FromCity"] == ""
    assert (form["FromCountry"], form["ToCountry"]) == ("US", "DE")


@pytest.mark.parametrize(
    ("phone", "outcome", "status", "sip", "ms"),
    [
        (Phone(answer="busy"), "busy", "busy", "486", 820),
        (Phone(answer="reject"), "rejected", "busy", "603", 820),
        (Phone(answer="failed"), "failed", "failed", "404", 320),
        (Phone(answer="no-answer"), "no-answer", "no-answer", "487", 20_320),
        (Phone(ring_ms=30_000), "no-answer", "no-answer", "487", 20_320),
    ],
)
def test_calls_nobody_takes(
    fake: FakeTwilio, app: EchoApp, client: Client, phone: Phone, outcome: str, status: str, sip: str, ms: float
) -> None:
    """Busy, rejected, failed and not answered each have their status, SIP code and time; no TwiML is asked for."""
    call = dial(fake, client, phone, timeout=20)
    assert call.wait_ended() == outcome
    assert steps(call)[-1] == (ms, status)
    last = app.forms("/status")[-1]
    assert (last["CallStatus"], last["SipResponseCode"], last["CallDuration"]) == (status, sip, "0")
    assert last["SequenceNumber"] == str(len(steps(call)) - 2)
    assert app.forms("/twilio/voice") == []


def test_only_subscribed_events_are_told(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """With two events subscribed, the sequence numbers still count all steps."""
    dial(fake, client, hang_up_after(1), status_callback_event=["ringing", "completed"]).wait_ended()
    assert [(f["CallStatus"], f["SequenceNumber"]) for f in app.forms("/status")] == [
        ("ringing", "1"),
        ("completed", "3"),
    ]


def test_the_answered_callback_comes_before_the_stream(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Whoever redirects the call from there ends the stream that is just being connected."""
    call = dial(fake, client, hang_up_after(1))
    call.wait_ended()
    told = next(e.at_s for e in call.events if e.kind == "callback" and e.data["form"]["CallStatus"] == "in-progress")
    connected = next(e.at_s for e in call.events if e.kind == "stream" and e.text == "connecting")
    assert told < connected


def test_an_inbound_call(fake: FakeTwilio, app: EchoApp) -> None:
    """The webhook comes first, ringing and complete; the stream after the TwiML; one callback of the number's."""
    fake.numbers[OURS].status_callback = f"https://{HOST}/status"
    call = fake.place_call(from_=THEM, phone=hang_up_after(2), extra=[("StirVerstat", "TN-Validation-Passed-A")])
    assert call.wait_ended() == "completed"
    form = app.forms("/twilio/voice")[0]
    example = keys(VECTORS["voice_webhooks"]["inbound_request"])
    assert example.keys() <= form.keys()
    for key in example.keys() - {"AccountSid", "CallSid", "CallToken"}:
        assert form[key] == example[key], key
    assert [(f["CallStatus"], f["Direction"]) for f in app.forms("/status")] == [("completed", "inbound")]
    assert app.of("start")[0]["start"]["callSid"] == call.sid


def test_an_outbound_webhook(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The request for TwiML has the fields of the recorded one."""
    dial(fake, client, hang_up_after(1)).wait_ended()
    example = keys(VECTORS["voice_webhooks"]["outbound_url_request"])
    form = app.forms("/twilio/voice")[0]
    assert example.keys() <= form.keys()
    assert (form["CallStatus"], form["Direction"]) == ("in-progress", "outbound-api")


def test_a_withheld_number(fake: FakeTwilio, app: EchoApp) -> None:
    """From is the word anonymous."""
    fake.faults.anonymous_caller = True
    fake.place_call(from_=THEM, phone=hang_up_after(1)).wait_ended()
    assert app.forms("/twilio/voice")[0]["From"] == "anonymous"


def test_a_number_that_cannot_be_called(fake: FakeTwilio) -> None:
    """The error says which numbers can."""
    fake.add_number("+15005550010")
    with pytest.raises(ValueError, match=r"owned: \+15005550010"):
        fake.place_call(to="+15005550010", from_=THEM)


def test_hanging_up_by_rest(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """The stream gets stop and is closed; the completed callback follows."""
    call = dial(fake, client, Phone())
    call.wait_streaming()
    clock.sleep(5)
    client.calls(call.sid).update(status="completed")
    assert call.wait_ended() == "completed"
    assert app.messages[-1]["event"] == "stop"
    assert call.streams[0].ended is LineEnd.STOPPED
    assert app.forms("/status")[-1]["CallStatus"] == "completed"
    assert fake.warnings(call.sid) == []


def test_redirecting_a_live_stream(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """The stream ends with stop, the new TwiML runs, and a new stream of the same call has new counters."""
    call = dial(fake, client, Phone())
    call.wait_streaming()
    clock.sleep(1)
    app.twiml["/again"] = CONNECT
    updated = client.calls(call.sid).update(
        twiml=f'<Response><Play digits="12w3"/><Redirect>https://{HOST}/again</Redirect></Response>'
    )
    assert updated.status == "in-progress"
    clock.sleep(4)
    assert call.keys_heard == "123"
    starts = app.of("start")
    assert len(starts) == 2
    assert starts[0]["start"]["callSid"] == starts[1]["start"]["callSid"] == call.sid
    assert starts[0]["streamSid"] != starts[1]["streamSid"]
    assert starts[1]["sequenceNumber"] == "1"
    assert len(app.of("stop")) == 1
    client.calls(call.sid).update(url=f"https://{HOST}/hangup")
    app.twiml["/hangup"] = "<Response><Hangup/></Response>"
    assert call.wait_ended() == "completed"
    assert len(app.of("stop")) == 2


def test_redirecting_from_the_answered_callback_kills_the_stream(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """No stream comes up, whether the update strikes before the first document or while the stream is connected."""
    for at in (1.33, 1.4):
        call = dial(fake, client, Phone(ring_ms=1000))
        clock.sleep(at - 1e-9)
        assert call.status == "in-progress"
        client.calls(call.sid).update(twiml="<Response><Say>Instead</Say></Response>")
        assert call.wait_ended() == "completed"
        assert call.streams == []
        assert call.said == ["Instead"]
    assert len(app.forms("/twilio/voice")) == 1


def test_the_app_closes_the_stream(fake: FakeTwilio, app: EchoApp) -> None:
    """31921 is logged and the call goes on behind <Connect>: the action, the next verb, or the end."""
    app.close_after = 10
    call = fake.place_call(from_=THEM)
    assert call.wait_ended() == "completed"
    assert fake.warnings(call) == [31921]

    app.twiml["/twilio/voice"] = CONNECT.replace("</Response>", "<Say>Bye</Say></Response>")
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert call.said == ["Bye"]

    app.twiml["/twilio/voice"] = CONNECT.replace("<Connect>", '<Connect action="/next" method="GET">')
    app.twiml["/next"] = "<Response><Say>Next</Say></Response>"
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert call.said == ["Next"]
    assert app.requests[-1][2], "the GET request is signed over its whole URL"


def test_silence_behind_a_pause(fake: FakeTwilio, app: EchoApp) -> None:
    """A <Pause> after <Connect> keeps the caller in silence after the app has closed."""
    app.close_after = 10
    app.twiml["/twilio/voice"] = CONNECT.replace("</Response>", '<Pause length="40"/></Response>')
    call = fake.place_call(from_=THEM)
    call.wait_ended(100)
    assert steps(call)[-1][0] > 40_000


def test_the_time_limit(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """A call ends at its TimeLimit, with warning 32015; an update may shorten it."""
    call = dial(fake, client, Phone(), time_limit=30)
    assert call.wait_ended(100) == "completed"
    assert [ms for ms, status in steps(call) if status == "completed"] == [320 + 1500 + 30_000]
    assert fake.warnings(call) == [32015]
    call = dial(fake, client, Phone())
    call.wait_streaming()
    client.calls(call.sid).update(time_limit=5)
    assert call.wait_ended(100) == "completed"
    assert fake.warnings(call) == [32015]


def test_a_far_end_that_hangs_up_by_itself(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """hang_up_after_s counts from the answer; before the answer a caller's hang-up is no-answer."""
    call = dial(fake, client, Phone(hang_up_after_s=3))
    call.wait_ended()
    assert steps(call)[-1][0] - steps(call)[-2][0] == 3000
    app.twiml["/twilio/voice"] = '<Response><Pause length="20"/></Response>'
    call = fake.place_call(from_=THEM)
    call.sleep(1)
    call.hang_up()
    assert call.wait_ended() == "no-answer"


@pytest.mark.parametrize(("mode", "found"), [("Enable", "machine_start"), ("DetectMessageEnd", "machine_end_beep")])
def test_synchronous_machine_detection(fake: FakeTwilio, app: EchoApp, client: Client, mode: str, found: str) -> None:
    """The TwiML waits for the result, which the request and the callbacks carry."""
    phone = Phone(ring_ms=1000, answered_by="machine", detection_ms=3200, hang_up_after_s=5)
    call = dial(fake, client, phone, machine_detection=mode)
    call.wait_ended()
    form = app.forms("/twilio/voice")[0]
    assert (form["AnsweredBy"], form["MachineDetectionDuration"]) == (found, "3200")
    assert app.forms("/status")[-1]["AnsweredBy"] == found
    assert client.calls(call.sid).fetch().answered_by == found
    assert steps(call)[3] == (320 + 1000 + 3200, "in-progress")


def test_asynchronous_machine_detection(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The TwiML runs at once, the result comes in a callback of its own."""
    phone = Phone(ring_ms=1000, answered_by="human", detection_ms=2000, hang_up_after_s=5)
    call = dial(
        fake,
        client,
        phone,
        machine_detection="Enable",
        async_amd="true",
        async_amd_status_callback=f"https://{HOST}/status-amd",
    )
    call.wait_ended()
    assert "AnsweredBy" not in app.forms("/twilio/voice")[0]
    assert app.forms("/status-amd")[0].keys() == keys(VECTORS["async_amd_callback"]["body"]).keys()
    assert app.forms("/status-amd")[0]["AnsweredBy"] == "human"


@pytest.mark.parametrize("fault", ["rest_500_after", "rest_reset"])
def test_a_call_whose_answer_is_lost_rings_on(fake: FakeTwilio, app: EchoApp, client: Client, fault: str) -> None:
    """The request failed, the telephone rings all the same, and the callbacks come."""
    setattr(fake.faults, fault, 1)
    with pytest.raises((TwilioRestException, requests.ConnectionError)):
        dial(fake, client, hang_up_after(2))
    call = fake.wait_for_call(to=THEM)
    assert call.wait_ended() == "completed"
    assert told(app) == ["initiated", "ringing", "in-progress", "completed"]
    assert len(fake.calls) == 1


# -- faults of callbacks ----------------------------------------------------------------------------------------


def told(app: EchoApp) -> list[str]:
    return [form["CallStatus"] for form in app.forms("/status")]


def test_callbacks_may_come_twice(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Each one, with the same sequence number."""
    fake.faults.duplicate_callbacks = True
    dial(fake, client, hang_up_after(1)).wait_ended()
    assert told(app) == [s for s in ("initiated", "ringing", "in-progress", "completed") for _ in range(2)]


def test_callbacks_may_come_in_the_wrong_order(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Each pair changes places; the sequence numbers tell."""
    fake.faults.reorder_callbacks = True
    dial(fake, client, hang_up_after(1)).wait_ended()
    assert [form["SequenceNumber"] for form in app.forms("/status")] == ["1", "0", "3", "2"]


def test_callbacks_may_be_late_or_lost(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """Late by what was asked for, or never."""
    fake.faults.callback_delay_ms = 2000
    call = dial(fake, client, hang_up_after(1))
    call.wait_ended()
    first = next(entry.at_s for entry in call.events if entry.kind == "callback")
    assert first - call.status_history[1][0] == pytest.approx(2.005)
    fake.faults.drop_callbacks = True
    count = len(told(app))
    dial(fake, client, hang_up_after(1)).wait_ended()
    assert len(told(app)) == count


def test_a_callback_that_fails_is_a_warning(fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The call does not care."""
    call = dial(
        fake, client, hang_up_after(1), status_callback=f"https://{HOST}/nothing", status_callback_event=["ringing"]
    )
    assert call.wait_ended() == "completed"
    assert fake.warnings(call) == [11200]


def test_redirecting_while_another_telephone_is_joined(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """The leg is closed, the action of the <Dial> is told, and the redirect's document is what runs."""
    agent = "+358401112233"
    app.twiml["/twilio/voice"] = f'<Response><Dial action="/dialled"><Number>{agent}</Number></Dial></Response>'
    app.twiml["/dialled"] = "<Response><Say>Not this</Say></Response>"
    call = fake.place_call(from_=THEM)
    clock.sleep(5)
    client.calls(call.sid).update(twiml="<Response><Say>This</Say></Response>")
    assert call.wait_ended() == "completed"
    assert call.said == ["This"]
    assert [form["DialCallStatus"] for form in app.forms("/dialled")] == ["completed"]
    leg = next(leg for leg in fake.calls if leg.to == agent)
    assert leg.outcome == "completed"
    assert [listed.sid for listed in client.calls.list(parent_call_sid=call.sid)] == [leg.sid]
