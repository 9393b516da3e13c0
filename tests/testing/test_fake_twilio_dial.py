"""<Dial> of telephones: who hears whom, who ends it, and what the action is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pytest
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone

from .echo_app import CONNECT, HOST, EchoApp
from .leg_app import speech

THEM = "+4930123456"
AGENT = "+358401112233"
ONE, TWO = speech(1), speech(2)
DIAL = f'<Response><Dial action="/dialled"><Number>{AGENT}</Number></Dial><Say>Never</Say></Response>'


@pytest.fixture
def put_through(fake: FakeTwilio, app: EchoApp) -> Callable[..., tuple[FakeCall, FakeCall]]:
    """Calls, and returns the caller's call and the agent's leg once they are joined."""

    def begin(twiml: str = DIAL, **agent: object) -> tuple[FakeCall, FakeCall]:
        fake.phones[AGENT] = Phone(ring_ms=1000, **agent)  # type: ignore[arg-type]
        app.twiml["/twilio/voice"] = twiml
        app.twiml.setdefault("/dialled", "<Response><Say>Back</Say></Response>")
        call = fake.place_call(from_=THEM)
        call.wait_joined()
        assert call.peer is not None
        return call, call.peer

    return begin


Begin = Callable[..., tuple[FakeCall, FakeCall]]


def forwarded(app: EchoApp) -> dict[str, str]:
    return app.forms("/dialled")[0]


# -- talking ----------------------------------------------------------------------------------------------------


def test_they_hear_each_other(put_through: Begin, clock: VirtualClock) -> None:
    """Sample for sample, at the time it was said, both at once."""
    call, leg = put_through()
    clock.sleep(0.5)
    said_at = call.now_ms(), leg.now_ms()
    call.begins_to_say(ONE)
    clock.sleep(0.1)
    leg.begins_to_say(TWO)
    clock.sleep(2)
    call.says(TWO)
    assert leg.heard.heard_ulaw() == ONE + TWO
    assert call.heard.heard_ulaw() == TWO
    assert [round(span.at_ms, 6) for span in leg.heard.spans] == [said_at[1], said_at[1] + 2100]
    assert call.heard.spans[0].at_ms == pytest.approx(said_at[0] + 100)


def test_only_while_they_are_joined(put_through: Begin, fake: FakeTwilio, clock: VirtualClock) -> None:
    """What is said before and after stays unheard; what is being said is heard in part."""
    call, leg = put_through(DIAL.replace("<Dial ", '<Dial timeLimit="2" '))
    clock.sleep(1.9)
    call.begins_to_say(ONE)
    assert leg.wait_ended() == "completed"
    # The time limit counts from the moment they were joined, at most one look of wait_joined() ago.
    heard = leg.heard.heard_ulaw()
    assert ONE.startswith(heard)
    assert 600 <= len(heard) <= 900


def test_scripts_on_both_sides(fake: FakeTwilio, app: EchoApp) -> None:
    """The person who is rung acts from the answer on, the caller from when they are joined."""
    heard: list[str] = []

    def agent(call: FakeCall) -> None:
        call.hears(ONE)
        heard.append("agent")
        call.says(TWO)
        call.wait_quiet(500)
        call.hang_up()

    def caller(call: FakeCall) -> None:
        call.says(ONE)
        call.hears(TWO)
        heard.append("caller")

    fake.phones[AGENT] = Phone(ring_ms=1000, script=agent)
    app.twiml["/twilio/voice"] = DIAL
    app.twiml["/dialled"] = "<Response/>"
    call = fake.place_call(from_=THEM, phone=Phone(script=caller))
    assert call.wait_ended() == "completed"
    assert sorted(heard) == ["agent", "caller"]
    assert [leg.wait_ended() for leg in fake.legs(call)] == ["completed"]


def test_keys_are_heard(put_through: Begin, clock: VirtualClock) -> None:
    """In both directions, and not kept for a <Gather> that comes later."""
    call, leg = put_through()
    call.press("12*")
    leg.press("9#")
    assert (leg.keys_heard, call.keys_heard) == ("12*", "9#")


def test_a_star_may_hang_up(put_through: Begin, app: EchoApp, clock: VirtualClock) -> None:
    """With hangupOnStar the caller's star ends the leg, not the call; the agent's star is a key."""
    call, leg = put_through(DIAL.replace("<Dial ", '<Dial hangupOnStar="true" '))
    leg.press("*")
    assert (leg.status, call.keys_heard) == ("in-progress", "*")
    call.press("1*")
    assert leg.wait_ended() == "completed"
    assert leg.keys_heard == "1"
    call.wait_ended()
    assert forwarded(app)["DialCallStatus"] == "completed"
    assert call.said == ["Back"]


def test_a_fork_listens_to_both(put_through: Begin, app: EchoApp, clock: VirtualClock) -> None:
    """A fork started before carries both tracks while they talk."""
    start = f'<Start><Stream url="wss://{HOST}/voice" track="both_tracks"/></Start>'
    call, leg = put_through(DIAL.replace("<Response>", f"<Response>{start}"))
    clock.sleep(0.5)
    call.begins_to_say(ONE)
    leg.says(TWO)
    clock.sleep(0.5)
    assert {m["media"]["track"] for m in app.of("media") if set(m["media"]["payload"]) > set("/w=")} == {
        "inbound",
        "outbound",
    }


def test_a_recording_holds_both_sides(
    put_through: Begin, fake: FakeTwilio, client: Client, clock: VirtualClock
) -> None:
    """Of the caller's call: what both say, at its place."""
    call, leg = put_through()
    recording = client.calls(call.sid).recordings.create(recording_channels="dual")
    call.begins_to_say(ONE)
    leg.says(TWO)
    client.calls(call.sid).recordings(recording.sid).update(status="stopped")
    tape = fake.recordings[0]
    assert bytes(tape.inbound).find(ONE) == bytes(tape.outbound).find(TWO) >= 0


# -- answering --------------------------------------------------------------------------------------------------


def test_the_caller_is_answered_at_once(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> None:
    """Without answerOnBridge a caller pays for the ringing."""
    fake.phones[AGENT] = Phone(ring_ms=3000)
    app.twiml["/twilio/voice"] = DIAL
    call = fake.place_call(from_=THEM)
    clock.sleep(1)
    assert call.status == "in-progress"


def test_answer_on_bridge(put_through: Begin, clock: VirtualClock) -> None:
    """The caller's telephone rings until the agent's whisper is over."""
    call, leg = put_through(DIAL.replace("<Dial ", '<Dial answerOnBridge="true" '))
    answered = {status: at for at, status in call.status_history}["in-progress"]
    assert answered == {status: at for at, status in leg.status_history}["in-progress"] + 0.03
    assert answered > call.status_history[0][0] + 1


@pytest.mark.parametrize(("answer", "outcome"), [("busy", "busy"), ("no-answer", "no-answer")])
def test_answer_on_bridge_without_an_answer(fake: FakeTwilio, app: EchoApp, answer: str, outcome: str) -> None:
    """The action is asked while the call still rings; a document that ends there leaves it unanswered."""
    fake.phones[AGENT] = Phone(answer=answer)  # type: ignore[arg-type]
    app.twiml["/twilio/voice"] = DIAL.replace("<Dial ", '<Dial answerOnBridge="true" timeout="5" ')
    app.twiml["/dialled"] = "<Response><Say>Nobody is here</Say></Response>"
    call = fake.place_call(from_=THEM)
    assert call.wait_ended() == "completed"
    assert (forwarded(app)["CallStatus"], forwarded(app)["DialCallStatus"]) == ("ringing", outcome)
    app.twiml["/twilio/voice"] = (
        app.twiml["/twilio/voice"].replace('action="/dialled"', "").replace("<Say>Never</Say>", "")
    )
    call = fake.place_call(from_=THEM)
    assert call.wait_ended() == outcome
    assert "in-progress" not in [status for _, status in call.status_history]


def test_a_whisper_may_be_refused(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> None:
    """The agent is asked to press 1; one who does not is never joined."""
    ask = '<Response><Gather numDigits="1" action="/screened"><Say>Press one</Say></Gather><Hangup/></Response>'
    app.twiml.update({"/twilio/voice": DIAL.replace("<Number>", '<Number url="/whisper">'), "/whisper": ask})
    app.twiml.update({"/screened": "<Response/>", "/dialled": "<Response/>"})
    fake.phones[AGENT] = Phone(ring_ms=1000)
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert forwarded(app)["DialBridged"] == "false"
    assert fake.legs(call)[0].peer is None

    def agent(leg: FakeCall) -> None:
        leg.sleep(1)
        leg.press("1")
        leg.wait_joined()
        leg.says(TWO)
        leg.hang_up()

    fake.phones[AGENT] = Phone(ring_ms=1000, script=agent)
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert app.forms("/dialled")[1]["DialBridged"] == "true"
    assert call.heard.heard_ulaw() == TWO


def test_sip_and_client(fake: FakeTwilio, app: EchoApp) -> None:
    """They are telephones under their own addresses; the caller id of the call need not be the account's."""
    fake.phones["sip:alice@example.com"] = Phone(answer="busy")
    fake.phones["client:bob"] = Phone(hang_up_after_s=4)
    app.twiml["/twilio/voice"] = (
        '<Response><Dial callerId="+12125550100"><Sip>sip:alice@example.com</Sip></Dial>'
        '<Dial action="/dialled"><Client statusCallback="/status"><Identity>bob</Identity></Client></Dial></Response>'
    )
    app.twiml["/dialled"] = "<Response/>"
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert [(leg.to, leg.outcome) for leg in fake.legs(call)] == [
        ("sip:alice@example.com", "busy"),
        ("client:bob", "completed"),
    ]
    assert forwarded(app)["DialCallDuration"] == "4"
    told = app.forms("/status")[0]
    assert (told["CallStatus"], told["ParentCallSid"], told["Direction"]) == ("completed", call.sid, "outbound-dial")


def test_digits_and_detection_of_a_number(fake: FakeTwilio, app: EchoApp) -> None:
    """sendDigits are heard before the joining; the verdict of machineDetection comes to its own callback."""
    fake.phones[AGENT] = Phone(answered_by="machine", greeting=ONE, hang_up_after_s=6)
    app.twiml["/dialled"] = "<Response/>"
    app.twiml["/twilio/voice"] = DIAL.replace("<Number>", '<Number sendDigits="w42">')
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert fake.legs(call)[0].keys_heard == "42"
    app.twiml["/twilio/voice"] = DIAL.replace(
        "<Number>", '<Number machineDetection="DetectMessageEnd" amdStatusCallback="/status-amd">'
    )
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    told = app.forms("/status-amd")[0]
    assert (told["AnsweredBy"], told["MachineDetectionDuration"]) == ("machine_end_beep", "1000")
    assert told["CallSid"] == fake.legs(call)[0].sid


# -- ends -------------------------------------------------------------------------------------------------------


def test_the_agent_hangs_up(put_through: Begin, app: EchoApp, clock: VirtualClock) -> None:
    """The action decides what becomes of the caller, who may go back to the app's stream."""
    app.twiml["/dialled"] = CONNECT
    call, leg = put_through()
    clock.sleep(7)
    leg.hang_up()
    call.wait_streaming()
    form = forwarded(app)
    assert (form["CallStatus"], form["DialCallStatus"], form["DialBridged"]) == ("in-progress", "completed", "true")
    assert (form["DialCallSid"], form["DialCallDuration"]) == (leg.sid, "7")
    call.says(ONE)
    call.hears(ONE)


def test_the_caller_hangs_up(put_through: Begin, app: EchoApp, clock: VirtualClock) -> None:
    """The leg is over at the same moment; the action is told of a completed call, with the facts of the leg."""
    call, leg = put_through()
    clock.sleep(5)
    call.hang_up()
    assert (call.wait_ended(), leg.wait_ended()) == ("completed", "completed")
    assert call.status_history[-1] == leg.status_history[-1]
    form = forwarded(app)
    assert (form["CallStatus"], form["DialCallStatus"], form["DialCallSid"]) == ("completed", "completed", leg.sid)
    assert call.said == []


def test_the_caller_gives_up_while_it_rings(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> None:
    """The leg is canceled, and so says the action."""
    app.twiml.update({"/twilio/voice": DIAL, "/dialled": "<Response/>"})
    call = fake.place_call(from_=THEM)
    clock.sleep(1)
    call.hang_up()
    call.wait_ended()
    assert [leg.wait_ended() for leg in fake.legs(call)] == ["canceled"]
    assert (forwarded(app)["DialCallStatus"], forwarded(app)["DialBridged"]) == ("canceled", "false")


def test_redirecting_the_caller(put_through: Begin, fake: FakeTwilio, app: EchoApp, client: Client) -> None:
    """The leg ends after 166 ms, the action is asked after 320 and not heeded, the target after 651."""
    app.twiml["/target"] = '<Response><Say>Elsewhere</Say><Pause length="5"/></Response>'
    call, leg = put_through()
    begin = call.now_ms()
    client.calls(call.sid).update(url=f"https://{HOST}/target")
    leg.wait_ended()
    call.sleep(2)
    at = {
        e.data["url"].rsplit("/", 1)[1]: (e.at_s - call.status_history[0][0]) * 1000 - begin
        for e in fake.log.entries("webhook", call.sid)
    }
    over = (leg.status_history[-1][0] - call.status_history[0][0]) * 1000 - begin
    assert over == pytest.approx(166)
    assert at["dialled"] == pytest.approx(320)
    assert at["target"] == pytest.approx(651 + 30)
    assert (forwarded(app)["DialCallStatus"], forwarded(app)["CallStatus"]) == ("completed", "in-progress")
    assert call.said == ["Elsewhere"]


def test_redirecting_the_agent(put_through: Begin, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """The leg goes on with TwiML of its own; the caller's <Dial> is over."""
    app.twiml["/parked"] = '<Response><Say>Parked</Say><Pause length="30"/></Response>'
    call, leg = put_through()
    clock.sleep(3)
    client.calls(leg.sid).update(url=f"https://{HOST}/parked")
    assert call.wait_ended() == "completed"
    assert call.said == ["Back"]
    assert (forwarded(app)["DialCallStatus"], forwarded(app)["DialCallDuration"]) == ("completed", "3")
    assert (leg.status, leg.said) == ("in-progress", ["Parked"])
    assert leg.wait_ended() == "completed"


def test_ending_the_agents_leg_by_rest(put_through: Begin, app: EchoApp, client: Client) -> None:
    """As if the agent had hung up."""
    call, leg = put_through()
    client.calls(leg.sid).update(status="completed")
    call.wait_ended()
    assert call.said == ["Back"]


def test_ten_minutes_of_talk_cost_little(put_through: Begin, clock: VirtualClock) -> None:
    """Two people, one word a minute, sample-exact to the end."""
    began = time.process_time()
    call, leg = put_through()
    for _ in range(10):
        clock.sleep(60)
        call.begins_to_say(ONE)
    clock.sleep(1)
    assert leg.heard.heard_ulaw() == ONE * 10
    if not sys.flags.dev_mode:  # which makes asyncio ten times slower
        assert time.process_time() - began < 8, "CPU seconds; 1 to 2 are usual"
