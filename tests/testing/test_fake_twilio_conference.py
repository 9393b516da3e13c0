"""Conferences: who hears whom, when they begin and end, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twilio.rest import Client

from voice_runtime.audio.g711 import ULAW_SILENCE
from voice_runtime.audio.mixer import mix_frames
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone

from .conftest import OURS
from .echo_app import CONNECT, HOST, EchoApp
from .leg_app import speech

ONE, TWO, THREE = speech(1), speech(2), speech(3)
EVENTS = "start end join leave mute hold"
Come = Callable[..., FakeCall]


@pytest.fixture
def come(fake: FakeTwilio, app: EchoApp) -> Come:
    """Somebody calls and is put into the room; the attributes are the noun's."""
    callers = iter(range(100, 999))

    def begin(dial: str = 'action="/left"', room: str = "room", **attributes: str) -> FakeCall:
        given = "".join(f' {name}="{value}"' for name, value in attributes.items())
        app.twiml["/twilio/voice"] = (
            f"<Response><Dial {dial}><Conference{given}>{room}</Conference></Dial></Response>"
        )
        app.twiml.setdefault("/left", "<Response><Say>You have left</Say></Response>")
        call = fake.place_call(from_=f"+49301234{next(callers)}")
        call.sleep(0.1)
        return call

    return begin


def told(app: EchoApp) -> list[str]:
    """The events of the conference, in order, with the places of the calls."""
    return [form["StatusCallbackEvent"] for form in app.forms("/status")]


# -- hearing ----------------------------------------------------------------------------------------------------


def test_everybody_hears_the_sum_of_the_others(come: Come, clock: VirtualClock) -> None:
    """Sample for sample; nobody hears themselves."""
    one, two, three = come(), come(), come()
    clock.sleep(0.5)
    one.begins_to_say(ONE)
    clock.sleep(0.25)
    two.begins_to_say(TWO)
    clock.sleep(2)
    half = len(ONE) // 2
    mixed = mix_frames(ONE, bytes([ULAW_SILENCE]) * half + TWO)
    assert three.heard.heard_ulaw() == mixed
    assert one.heard.heard_ulaw() == TWO
    assert two.heard.heard_ulaw() == ONE


def test_three_at_once_do_not_overflow(come: Come, clock: VirtualClock) -> None:
    """Four people, three of whom shout: clipped at full scale."""
    people = [come() for _ in range(4)]
    loud = bytes([0x80]) * 800  # the loudest positive sample
    for person in people[:3]:
        person.begins_to_say(loud)
    clock.sleep(1)
    assert people[3].heard.heard_ulaw() == loud
    people[0].begins_to_say(loud)
    people[1].begins_to_say(bytes([0x00]) * 800)
    people[2].begins_to_say(ONE[:800])
    clock.sleep(1)
    assert people[3].heard.heard_ulaw()[800:] == ONE[:800]


def test_keys_are_heard_by_the_others(come: Come) -> None:
    """As tones are."""
    one, two, three = come(), come(), come()
    one.press("42")
    assert (one.keys_heard, two.keys_heard, three.keys_heard) == ("", "42", "42")


def test_muted_from_the_beginning(come: Come, clock: VirtualClock) -> None:
    """Hears, and is not heard."""
    one, two = come(), come(muted="true")
    two.begins_to_say(TWO)
    one.says(ONE)
    assert (one.heard.heard_bytes(), two.heard.heard_ulaw()) == (0, ONE)


# -- beginning and ending ---------------------------------------------------------------------------------------


def test_a_conference_begins_with_the_second(come: Come, client: Client, clock: VirtualClock) -> None:
    """Alone nobody is in a conference; what was said by then stays unheard."""
    one = come()
    assert client.conferences.list(friendly_name="room")[0].status == "init"
    one.says(ONE)
    two = come()
    assert client.conferences.list(friendly_name="room")[0].status == "in-progress"
    assert two.heard.heard_bytes() == 0


def test_it_waits_for_somebody_who_starts_it(come: Come, app: EchoApp, clock: VirtualClock) -> None:
    """Two who do not start it hear the music of waitUrl, again and again, until a third comes."""
    app.twiml["/music"] = '<Response><Say>Please hold</Say><Pause length="1"/></Response>'
    waits = {"startConferenceOnEnter": "false", "waitUrl": "/music"}
    one, two = come(**waits), come(**waits)
    clock.sleep(5)
    one.says(ONE)
    assert one.said[:2] == two.said[:2] == ["Please hold", "Please hold"]
    assert two.heard.heard_bytes() == 0
    assert app.forms("/music")[0]["FriendlyName"] == "room"
    three = come()
    count = len(one.said)
    clock.sleep(5)
    one.says(ONE)
    assert len(one.said) == count
    assert two.heard.heard_ulaw() == three.heard.heard_ulaw() == ONE


def test_the_last_one_goes(come: Come, app: EchoApp, client: Client) -> None:
    """Who hangs up leaves; the room is over when nobody is left, and the name is free again."""
    one, two = come(), come()
    sid = client.conferences.list(friendly_name="room")[0].sid
    one.hang_up()
    assert one.wait_ended() == "completed"
    assert client.conferences(sid).fetch().status == "in-progress"
    two.hang_up()
    two.wait_ended()
    room = client.conferences(sid).fetch()
    assert (room.status, room.reason_conference_ended) == ("completed", "last-participant-left")
    assert room.call_sid_ending_conference == two.sid
    assert app.forms("/left")[0]["DialCallStatus"] == "answered"
    come()
    assert client.conferences.list(friendly_name="room", status="init")[0].sid != sid


def test_one_may_end_it_for_all(come: Come, app: EchoApp, client: Client) -> None:
    """endConferenceOnExit: the others go on with their TwiML."""
    one, two = come(endConferenceOnExit="true"), come()
    one.hang_up()
    assert two.wait_ended() == "completed"
    assert two.said == ["You have left"]
    room = client.conferences.list()[0]
    assert room.reason_conference_ended == "participant-with-end-conference-on-exit-left"


def test_a_star_may_leave(come: Come, clock: VirtualClock) -> None:
    """hangupOnStar takes the caller out of the room, not off the line."""
    one, two = come('hangupOnStar="true" action="/left"'), come()
    one.press("*")
    assert one.wait_ended() == "completed"
    assert one.said == ["You have left"]
    assert two.keys_heard == ""


def test_a_full_room(come: Come, app: EchoApp, fake: FakeTwilio) -> None:
    """One more than maxParticipants goes on with the action, which hears that it failed."""
    come(maxParticipants="2")
    come(maxParticipants="2")
    three = come(maxParticipants="2")
    three.wait_ended()
    assert app.forms("/left")[0]["DialCallStatus"] == "failed"
    assert fake.warnings(three) == [13234]


def test_redirected_out_of_a_room(come: Come, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """The action is asked, and not heeded; the target is executed."""
    app.twiml["/bot"] = CONNECT
    one, two = come(), come()
    client.calls(one.sid).update(url=f"https://{HOST}/bot")
    one.wait_streaming()
    assert app.forms("/left")[0]["CallSid"] == one.sid
    assert one.said == []
    two.begins_to_say(TWO)
    one.says(ONE)
    one.hears(ONE)  # the app's echo
    assert TWO not in one.heard.heard_ulaw()


# -- callbacks --------------------------------------------------------------------------------------------------


def test_what_is_told(come: Come, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """Every event, in order, with its fields; the callback of the first participant counts."""
    one = come(statusCallback="/status", statusCallbackEvent=EVENTS, participantLabel="customer")
    two = come(statusCallback="/status-other", statusCallbackEvent=EVENTS)
    room = client.conferences(client.conferences.list()[0].sid)
    room.participants(two.sid).update(muted=True)
    room.participants(two.sid).update(muted=False)
    room.participants(two.sid).update(hold=True)
    room.participants(two.sid).update(hold=False)
    one.hang_up()
    two.hang_up()
    two.wait_ended()
    clock.sleep(1)
    assert told(app) == [
        "participant-join",
        "participant-join",
        "conference-start",
        "participant-mute",
        "participant-unmute",
        "participant-hold",
        "participant-unhold",
        "participant-leave",
        "participant-leave",
        "conference-end",
    ]
    forms = app.forms("/status")
    assert [int(form["SequenceNumber"]) for form in forms] == list(range(1, 11))
    assert {form["ConferenceSid"] for form in forms} == {client.conferences.list()[0].sid}
    assert {form["FriendlyName"] for form in forms} == {"room"}
    assert all(form["Timestamp"].endswith(" +0000") for form in forms)
    assert [forms[n].get("CallSid") for n in (0, 1, 2)] == [one.sid, two.sid, None]
    assert (forms[0]["ParticipantLabel"], forms[0]["Muted"], forms[3]["Muted"]) == ("customer", "false", "true")
    assert forms[-1]["ReasonConferenceEnded"] == "last-participant-left"
    assert forms[-1]["CallSidEndingConference"] == two.sid
    assert app.forms("/status-other") == []


def test_only_what_was_subscribed(come: Come, app: EchoApp, fake: FakeTwilio, clock: VirtualClock) -> None:
    """And with the faults of callbacks."""
    fake.faults.duplicate_callbacks = True
    come(statusCallback="/status", statusCallbackEvent="start leave")
    come()
    clock.sleep(1)
    assert told(app) == ["conference-start"] * 2


# -- the REST API -----------------------------------------------------------------------------------------------


def test_muting_by_rest(come: Come, client: Client, clock: VirtualClock) -> None:
    """From the moment of the request to that of the next one."""
    one, two = come(), come()
    participant = client.conferences(client.conferences.list()[0].sid).participants(one.sid)
    one.begins_to_say(ONE)
    clock.sleep(0.25)
    assert participant.update(muted=True).muted is True
    clock.sleep(0.125)
    assert participant.update(muted=False).muted is False
    clock.sleep(1)
    assert two.heard.heard_ulaw() == ONE[:2000] + ONE[3000:]


def test_holding_by_rest(come: Come, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """Music for the one on hold, silence between the two."""
    app.twiml["/hold"] = '<Response><Say>On hold</Say><Pause length="2"/></Response>'
    one, two = come(), come()
    participants = client.conferences(client.conferences.list()[0].sid).participants
    assert participants(one.sid).update(hold=True, hold_url=f"https://{HOST}/hold").hold is True
    assert [p.call_sid for p in participants.list(hold=True)] == [one.sid]
    clock.sleep(4)
    one.begins_to_say(ONE)
    two.says(TWO)
    assert one.said[0] == "On hold"
    assert one.heard.heard_bytes() == two.heard.heard_bytes() == 0
    participants(one.sid).update(hold=False)
    clock.sleep(0.1)
    count = len(one.said)
    one.begins_to_say(ONE)
    two.says(TWO)
    assert (one.heard.heard_ulaw(), two.heard.heard_ulaw()) == (TWO, ONE)
    assert len(one.said) == count


def test_looking_at_a_conference(come: Come, client: Client) -> None:
    """Lists with their filters, single ones, by label too; what is not there is not found."""
    one, two = come(participantLabel="agent"), come(room="elsewhere", endConferenceOnExit="true")
    assert [room.friendly_name for room in client.conferences.list()] == ["elsewhere", "room"]
    assert client.conferences.list(status="in-progress") == []
    room = client.conferences.list(friendly_name="room", status="init")[0]
    assert room.date_created is not None
    shown = client.conferences(room.sid).participants("agent").fetch()
    assert (shown.call_sid, shown.label, shown.status) == (one.sid, "agent", "connected")
    assert (shown.muted, shown.hold, shown.start_conference_on_enter) == (False, False, True)
    assert [p.call_sid for p in client.conferences(room.sid).participants.list()] == [one.sid]
    for missing in (client.conferences("CF0").fetch, client.conferences(room.sid).participants(two.sid).fetch):
        with pytest.raises(Exception, match="was not found"):
            missing()


def test_taking_somebody_out(come: Come, client: Client, clock: VirtualClock) -> None:
    """The call goes on with its TwiML."""
    one, two = come(), come()
    participants = client.conferences(client.conferences.list()[0].sid).participants
    assert participants(one.sid).delete() is True
    assert one.wait_ended() == "completed"
    assert one.said == ["You have left"]
    assert [p.call_sid for p in participants.list()] == [two.sid]


def test_ending_it_by_rest(come: Come, client: Client) -> None:
    """Everybody goes on with their TwiML."""
    one, two = come(), come()
    sid = client.conferences.list()[0].sid
    assert client.conferences(sid).update(status="completed").status == "completed"
    assert (one.wait_ended(), two.wait_ended()) == ("completed", "completed")
    assert client.conferences(sid).fetch().reason_conference_ended == "conference-ended-via-api"


def test_calling_somebody_into_it(
    come: Come, fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """A participant is dialled, by the room's sid or name, with callbacks of its own."""
    agent_number = "+358401112233"
    fake.phones[agent_number] = Phone(ring_ms=1000, script=lambda call: call.says(TWO))
    one = come()
    sid = client.conferences.list()[0].sid
    options: dict[str, Any] = {
        "from_": OURS,
        "to": agent_number,
        "label": "agent & co",
        "end_conference_on_exit": True,
        "status_callback": f"https://{HOST}/status",
        "status_callback_event": ["answered", "completed"],
    }
    created = client.conferences(sid).participants.create(**options)
    assert (created.conference_sid, created.status, created.label) == (sid, "queued", "agent & co")
    agent = fake.call(str(created.call_sid))
    agent.wait_joined()
    clock.sleep(2)
    one.says(ONE)
    assert (one.heard.heard_ulaw(), agent.heard.heard_ulaw()) == (TWO, ONE)
    assert client.conferences(sid).participants("agent & co").fetch().status == "connected"
    client.calls(agent.sid).update(status="completed")
    assert one.wait_ended() == "completed"
    agent.wait_ended()
    assert [form["CallStatus"] for form in app.forms("/status")] == ["in-progress", "completed"]
    by_name = client.conferences("a new room").participants.create(**options)
    assert client.conferences(str(by_name.conference_sid)).fetch().friendly_name == "a new room"


def test_both_legs_of_a_dial_move_into_a_room(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """The warm transfer: the agent's leg is redirected there, the caller follows by the action; they talk on."""
    fake.phones["+358401112233"] = Phone(ring_ms=500)
    app.twiml["/twilio/voice"] = '<Response><Dial action="/room">+358401112233</Dial></Response>'
    app.twiml["/room"] = "<Response><Dial><Conference>warm</Conference></Dial></Response>"
    caller = fake.place_call(from_="+4930123456")
    caller.wait_joined()
    agent = caller.peer
    assert agent is not None
    client.calls(agent.sid).update(url=f"https://{HOST}/room")
    clock.sleep(2)
    caller.begins_to_say(ONE)
    agent.says(TWO)
    assert (caller.heard.heard_ulaw(), agent.heard.heard_ulaw()) == (TWO, ONE)
