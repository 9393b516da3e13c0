"""Keys and paths between calls."""

from __future__ import annotations

import pytest
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_bridging import digits_s
from voice_runtime.testing.phone import FakeCall, Phone

from .conftest import OURS
from .echo_app import HOST, EchoApp
from .leg_app import LegApp, speech, to_leg


@pytest.mark.parametrize(("digits", "seconds"), [("", 0), ("1", 0.25), ("1w2", 1.0), ("W#", 1.25)])
def test_keys_take_their_time(digits: str, seconds: float) -> None:
    """A quarter of a second each; w is half a second, W one."""
    assert digits_s(digits) == seconds


def test_keys_come_one_by_one(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> None:
    """Somebody who hangs up in the middle has heard the first ones."""
    app.twiml["/twilio/voice"] = '<Response><Play digits="123456"/></Response>'
    call = fake.place_call(from_="+4930123456", phone=Phone(hang_up_after_s=0.6))
    call.wait_ended()
    assert call.keys_heard == "123"


def test_sound_through_a_chain_of_calls(fake: FakeTwilio, client: Client, clock: VirtualClock) -> None:
    """Three apps in a row, put through by <Dial>: what the last says the first hears, and the other way round."""
    app = LegApp(fake.auth_token)
    fake.mount(HOST, app.app)
    one, two = speech(1), speech(2)
    for name, number in (("first", OURS), ("middle", "+15005550010"), ("last", "+15005550011")):
        fake.add_number(number, voice_url=f"https://{HOST}/{name}")
    app.twiml["/start"] = to_leg("start")
    app.twiml["/middle"] = "<Response><Dial>+15005550011</Dial></Response>"
    app.twiml["/last"] = to_leg("last")
    app.lines["start"] = [(3000, one)]
    app.lines["last"] = [(3000, two)]
    call = fake.call(client.calls.create(to="+15005550010", from_=OURS, url=f"https://{HOST}/start").sid)
    clock.sleep(10)
    last = fake.calls[-1]
    assert (call.heard.heard_ulaw(), last.heard.heard_ulaw()) == (one, two)
    assert bytes(app.heard["last"]).strip(b"\xff") == one
    assert bytes(app.heard["start"]).strip(b"\xff") == two
    begins = [heard_at(person) for person in fake.calls if one in person.heard.heard_ulaw()]
    assert len(begins) == 2, "the calls that carry it outwards"
    assert begins[1] - begins[0] == pytest.approx(0.001, abs=1e-4)
    client.calls(last.sid).update(status="completed")
    assert {person.wait_ended() for person in fake.calls} == {"completed"}


def heard_at(call: FakeCall) -> float:
    """When the first sound was heard, in seconds of the clock."""
    return call.heard.origin_s + call.heard.spans[0].at_ms / 1000


def test_two_ends_of_one_call_in_a_room_do_not_hang(
    fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock
) -> None:
    """Each is the other's far end, and both hear the room: a loop of sound, but not of the program."""
    room = "<Response><Dial><Conference>loop</Conference></Dial></Response>"
    app.twiml["/twilio/voice"] = room
    fake.add_number("+15005550010", voice_url=f"https://{HOST}/twilio/voice")
    client.calls.create(to="+15005550010", from_=OURS, twiml=room)
    guest = fake.place_call(from_="+4930123456")
    clock.sleep(5)
    guest.says(speech(1))
    guest.hang_up()
    assert guest.wait_ended() == "completed"
