"""Calls to a number of the account: two legs, two documents, each the other's far end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone

from .conftest import OURS
from .echo_app import HOST
from .leg_app import LegApp, speech, to_leg

THEM = "+4930123456"
OTHER = "+15005550010"
ONE, TWO = speech(1), speech(2)
SILENCE = b"\xff"


@pytest.fixture
def app(fake: FakeTwilio) -> LegApp:
    """OURS calls from /a, OTHER answers at /b."""
    app = LegApp(fake.auth_token)
    fake.mount(HOST, app.app)
    fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
    fake.add_number(OTHER, voice_url=f"https://{HOST}/b", status_callback=f"https://{HOST}/status-b")
    app.twiml["/a"] = to_leg("a")
    app.twiml["/b"] = to_leg("b")
    return app


def dial(fake: FakeTwilio, client: Client, **more: Any) -> FakeCall:
    options: dict[str, Any] = {
        "url": f"https://{HOST}/a",
        "status_callback": f"https://{HOST}/status",
        "status_callback_event": ["initiated", "ringing", "answered", "completed"],
        **more,
    }
    return fake.call(client.calls.create(to=OTHER, from_=OURS, **options).sid)


def moments(call: FakeCall) -> dict[str, float]:
    return {status: at for at, status in call.status_history}


def test_two_legs_hear_each_other(fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock) -> None:
    """What one app streams is what the other's stream carries, without a gap, and what its far end heard."""
    app.lines["a"] = [(500, ONE), (2000, ONE)]
    app.lines["b"] = [(700, TWO)]
    call = dial(fake, client)
    clock.sleep(6)
    client.calls(call.sid).update(status="completed")
    call.wait_ended()
    assert bytes(app.heard["b"]).strip(SILENCE) == ONE + SILENCE * 8000 + ONE
    assert bytes(app.heard["a"]).strip(SILENCE) == TWO
    assert call.heard.heard_ulaw() == ONE + ONE
    assert call.peer is not None
    assert call.peer.heard.heard_ulaw() == TWO
    assert call.peer.peer is call


def test_not_a_sample_is_lost_off_the_beat(
    fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock
) -> None:
    """Streams that begin and play at odd fractions of a millisecond carry everything all the same."""
    fake.timings = msgspec.structs.replace(fake.timings, stream_connect_ms=365.0871, first_media_ms=100.0437)
    long = speech(9, 3000)
    app.lines["a"] = [(500.0613, long)]
    app.lines["b"] = [(700.1191, long)]
    call = dial(fake, client)
    clock.sleep(6.00003)
    call.hang_up()
    call.wait_ended()
    assert bytes(app.heard["b"]).strip(SILENCE) == long
    assert bytes(app.heard["a"]).strip(SILENCE) == long


def test_the_second_call_has_a_life_of_its_own(
    fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock
) -> None:
    """Inbound, with its own SID, webhook, TwiML and callback; it knows no parent."""
    call = dial(fake, client)
    clock.sleep(4)
    call.hang_up()
    call.wait_ended()
    form = app.forms("/b")[0]
    assert (form["Direction"], form["CallStatus"], form["From"], form["To"]) == ("inbound", "ringing", OURS, OTHER)
    assert form["CallSid"] != call.sid
    assert "ParentCallSid" not in form
    other = client.calls(form["CallSid"]).fetch()
    assert (other.direction, other.status, other.parent_call_sid) == ("inbound", "completed", None)
    assert client.calls(call.sid).fetch().direction == "outbound-api"
    assert [f["CallStatus"] for f in app.forms("/status-b")] == ["completed"]
    assert [f["CallStatus"] for f in app.forms("/status")] == ["initiated", "ringing", "in-progress", "completed"]


def test_answered_by_the_first_verb_that_answers(
    fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock
) -> None:
    """Both ring while the other document pauses; then both are in progress at the same moment."""
    app.twiml["/b"] = '<Response><Pause length="3"/><Say>Hello there</Say><Pause length="9"/></Response>'
    call = dial(fake, client)
    clock.sleep(3)
    assert call.status == "ringing"
    clock.sleep(3)
    other = call.peer
    assert other is not None
    assert moments(call)["ringing"] == moments(other)["ringing"]
    assert moments(call)["in-progress"] == moments(other)["in-progress"] == moments(call)["ringing"] + 3


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("how", ["hang_up", "rest", "document"])
def test_one_end_is_the_others_end(
    fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock, side: str, how: str
) -> None:
    """Whichever side ends, and however, both are completed at the same moment, and both streams are stopped."""
    if how == "document":
        app.twiml[f"/{side}"] = '<Response><Pause length="1"/><Say>Hi</Say><Pause length="2"/></Response>'
    call = dial(fake, client)
    clock.sleep(3)
    other = call.peer
    assert other is not None
    if how != "document":
        ending = call if side == "a" else other
        if how == "hang_up":
            ending.hang_up()
        else:
            client.calls(ending.sid).update(status="completed")
    assert (call.wait_ended(), other.wait_ended()) == ("completed", "completed")
    assert moments(call)["completed"] == moments(other)["completed"]
    for name in {"a", "b"} - ({side} if how == "document" else set()):
        assert app.events[name][-1]["event"] == "stop"


@pytest.mark.parametrize(
    ("twiml", "outcome", "sip"),
    [
        ('<Response><Reject reason="busy"/></Response>', "busy", "486"),
        ("<Response><Reject/></Response>", "rejected", "603"),
    ],
)
def test_a_call_that_is_rejected(
    fake: FakeTwilio, app: LegApp, client: Client, twiml: str, outcome: str, sip: str
) -> None:
    """The caller meets a busy line, with the SIP code that tells why."""
    app.twiml["/b"] = twiml
    call = dial(fake, client)
    assert call.wait_ended() == outcome
    last = app.forms("/status")[-1]
    assert (last["CallStatus"], last["SipResponseCode"]) == ("busy", sip)
    assert call.peer is not None
    assert call.peer.wait_ended() == outcome
    assert app.forms("/a") == []


def test_a_call_that_is_not_answered_in_time(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """Both are no-answer after the caller's time-out."""
    app.twiml["/b"] = '<Response><Pause length="60"/></Response>'
    call = dial(fake, client, timeout=10)
    assert call.wait_ended() == "no-answer"
    assert moments(call)["no-answer"] - moments(call)["ringing"] == 10
    assert call.peer is not None
    assert call.peer.wait_ended() == "no-answer"


def test_a_call_that_is_given_up(fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock) -> None:
    """A canceled call stops ringing at the other number."""
    app.twiml["/b"] = '<Response><Pause length="60"/></Response>'
    call = dial(fake, client)
    clock.sleep(3)
    client.calls(call.sid).update(status="canceled")
    assert call.wait_ended() == "canceled"
    assert call.peer is not None
    assert call.peer.wait_ended() == "no-answer"


def test_a_number_without_a_voice_url(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """The call fails at once, without an entry in the debugger."""
    fake.numbers[OTHER].voice_url = ""
    call = dial(fake, client)
    assert call.wait_ended() == "failed"
    assert [status for _, status in call.status_history] == ["queued", "initiated", "failed"]
    assert app.forms("/status")[-1]["CallDuration"] == "0"
    assert fake.warnings(call) == []
    assert call.peer is None


def test_a_telephone_under_the_same_number_comes_first(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """A test that gives the number a telephone gets the telephone."""
    fake.phones[OTHER] = Phone(ring_ms=100, hang_up_after_s=2)
    dial(fake, client).wait_ended()
    assert app.forms("/b") == []


def test_keys_reach_the_other_stream(fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock) -> None:
    """<Play digits> of one leg are dtmf messages of the other, each at its time."""
    app.twiml["/a"] = '<Response><Pause length="2"/><Play digits="12w#"/><Pause length="1"/></Response>'
    call = dial(fake, client)
    call.wait_ended()
    assert app.keys("b") == "12#"
    assert call.keys_heard == "12#"


def test_send_digits_reach_the_others_gather(
    fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock
) -> None:
    """The extension that a caller dials."""
    app.twiml["/b"] = (
        '<Response><Gather numDigits="3" action="/gathered"><Say>Which extension</Say></Gather></Response>'
    )
    app.twiml["/gathered"] = '<Response><Say>Thanks</Say><Pause length="5"/></Response>'
    call = dial(fake, client, send_digits="w123")
    clock.sleep(5)
    assert app.forms("/gathered")[0]["Digits"] == "123"
    assert call.status == "in-progress"


def test_nobody_sits_at_such_a_far_end(fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock) -> None:
    """Who speaks there is the other app; a test that tries to is told so. The default telephone plays no part."""
    fake.default_phone = Phone(hang_up_after_s=1, script=lambda call: call.hang_up())
    call = dial(fake, client)
    clock.sleep(5)
    assert call.status == "in-progress"
    with pytest.raises(RuntimeError, match="another call of the account"):
        call.says(ONE)
    with pytest.raises(RuntimeError, match="another call of the account"):
        call.press("1")


def test_dial_reaches_such_a_number_too(fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock) -> None:
    """A caller is put through: two calls of the app and a leg between them; sound and keys pass all of it."""
    app.twiml["/twilio/voice"] = f'<Response><Dial action="/dialled"><Number>{OTHER}</Number></Dial></Response>'
    app.twiml["/dialled"] = "<Response><Say>Over</Say></Response>"
    app.lines["b"] = [(300, TWO)]
    call = fake.place_call(from_=THEM)
    call.wait_joined()
    leg = call.peer
    assert leg is not None
    assert fake.legs(call) == [leg]
    clock.sleep(1)
    call.says(ONE)
    call.press("5")
    clock.sleep(1)
    far = leg.peer
    assert bytes(app.heard["b"]).strip(SILENCE) == ONE
    assert call.heard.heard_ulaw() == TWO
    assert app.keys("b") == "5"
    form = app.forms("/b")[0]
    assert (form["From"], form["Direction"]) == (THEM, "inbound")
    client.calls(form["CallSid"]).update(status="completed")
    assert call.wait_ended() == "completed"
    assert app.forms("/dialled")[0]["DialCallStatus"] == "completed"
    assert leg.outcome == "completed"
    assert far is not None


def test_a_recording_holds_both(fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock) -> None:
    """The inbound track of such a call is what the other app says."""
    app.lines["b"] = [(500, TWO)]
    call = dial(fake, client, record=True)
    clock.sleep(5)
    call.hang_up()
    call.wait_ended()
    assert TWO in bytes(fake.recordings[0].inbound)
