"""<Enqueue>, <Leave> and <Dial><Queue>."""

from __future__ import annotations

import pytest
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone

from .conftest import OURS
from .echo_app import HOST, EchoApp
from .leg_app import speech

ONE, TWO = speech(1), speech(2)
AGENT = "+358401112233"
WAIT = '<Response><Say>Please wait</Say><Pause length="2"/></Response>'


@pytest.fixture
def waiting(fake: FakeTwilio, app: EchoApp) -> FakeCall:
    """A caller in the queue "support"."""
    app.twiml["/twilio/voice"] = (
        '<Response><Enqueue action="/dequeued" waitUrl="/wait">support</Enqueue><Say>Never</Say></Response>'
    )
    app.twiml["/wait"] = WAIT
    app.twiml["/dequeued"] = "<Response><Say>Goodbye</Say></Response>"
    call = fake.place_call(from_="+4930123456")
    call.sleep(5)
    return call


def agent(fake: FakeTwilio, client: Client, queue: str = '<Queue url="/whisper">support</Queue>') -> FakeCall:
    """Somebody who is called and put through to the queue."""
    fake.phones[AGENT] = Phone(ring_ms=100)
    twiml = f'<Response><Dial timeout="5" action="https://{HOST}/served">{queue}</Dial></Response>'.replace(
        '"/', f'"https://{HOST}/'
    )
    return fake.call(client.calls.create(to=AGENT, from_=OURS, twiml=twiml).sid)


def test_who_waits_is_entertained(app: EchoApp, waiting: FakeCall) -> None:
    """The document is asked for again and again, with the place in the queue."""
    assert waiting.said == ["Please wait"] * 2
    form = app.forms("/wait")[0]
    assert (form["QueuePosition"], form["CurrentQueueSize"], form["QueueTime"]) == ("1", "1", "0")
    assert form["QueueSid"].startswith("QU")
    assert app.forms("/wait")[1]["QueueTime"] == "3"


def test_somebody_takes_the_first(
    fake: FakeTwilio, app: EchoApp, client: Client, waiting: FakeCall, clock: VirtualClock
) -> None:
    """The caller hears a word, then the agent; the agent's end is told to both actions."""
    app.twiml["/whisper"] = "<Response><Say>You are next</Say></Response>"
    app.twiml["/served"] = "<Response/>"
    second = fake.place_call(from_="+4930123457")
    served = agent(fake, client)
    served.wait_joined()
    assert (served.peer, waiting.said[-1]) == (waiting, "You are next")
    waiting.begins_to_say(ONE)
    served.says(TWO)
    assert (served.heard.heard_ulaw(), waiting.heard.heard_ulaw()) == (ONE, TWO)
    assert app.forms("/whisper")[0]["DequeingCallSid"] == served.sid
    served.hang_up()
    assert waiting.wait_ended() == "completed"
    assert waiting.said[-1] == "Goodbye"
    form = app.forms("/dequeued")[0]
    assert (form["QueueResult"], form["CallSid"]) == ("bridged", waiting.sid)
    assert 5 <= int(form["QueueTime"]) <= 7
    assert second.status == "in-progress"


def test_the_caller_hangs_up_while_served(fake: FakeTwilio, app: EchoApp, client: Client, waiting: FakeCall) -> None:
    """The agent's <Dial> is over, and its action told."""
    app.twiml["/served"] = "<Response><Say>Next please</Say></Response>"
    served = agent(fake, client, "<Queue>support</Queue>")
    served.wait_joined()
    waiting.hang_up()
    served.wait_ended()
    form = app.forms("/served")[0]
    assert (form["DialCallStatus"], form["DialCallSid"]) == ("completed", waiting.sid)
    assert served.said == ["Next please"]


def test_an_empty_queue(fake: FakeTwilio, app: EchoApp, client: Client, waiting: FakeCall) -> None:
    """Whoever comes before the time-out is taken; nobody comes after it."""
    app.twiml["/served"] = "<Response/>"
    waiting.hang_up()
    served = agent(fake, client, "<Queue>support</Queue>")
    served.sleep(3)
    late = fake.place_call(from_="+4930123458")
    served.wait_joined()
    assert served.peer is late
    late.hang_up()
    served.wait_ended()
    agent(fake, client, "<Queue>support</Queue>").wait_ended()
    assert [form["DialCallStatus"] for form in app.forms("/served")] == ["completed", "no-answer"]


def test_leaving(fake: FakeTwilio, app: EchoApp, waiting: FakeCall, clock: VirtualClock) -> None:
    """The waiting document says <Leave>; the action is asked at once."""
    app.twiml["/wait"] = "<Response><Say>Too long</Say><Leave/><Say>Never</Say></Response>"
    waiting.wait_ended()
    assert waiting.said[-2:] == ["Too long", "Goodbye"]
    assert app.forms("/dequeued")[0]["QueueResult"] == "leave"


def test_giving_up(fake: FakeTwilio, app: EchoApp, client: Client, waiting: FakeCall) -> None:
    """Who hangs up is out of the queue, and so is who is redirected; the action is told of both."""
    other = fake.place_call(from_="+4930123457")
    waiting.hang_up()
    waiting.wait_ended()
    other.sleep(5)
    client.calls(other.sid).update(twiml='<Response><Pause length="1"/></Response>')
    other.wait_ended()
    assert [form["QueueResult"] for form in app.forms("/dequeued")] == ["hangup", "redirected"]
    app.twiml["/served"] = "<Response/>"
    agent(fake, client, "<Queue>support</Queue>").wait_ended()
    assert app.forms("/served")[0]["DialCallStatus"] == "no-answer"
