"""The far end: what a script can do and wait for."""

from __future__ import annotations

import random

import pytest

from voice_runtime.exceptions import CallHangupError
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone

from .echo_app import EchoApp

THEM = "+4930123456"
SPEECH = random.Random(3).randbytes(8000)  # a second


def test_a_script_speaks_hears_presses_and_hangs_up(fake: FakeTwilio, app: EchoApp) -> None:
    """says() lasts as long as the speech, hears() finds it in the echo, keys arrive, the call ends."""
    seen: list[float] = []

    def person(call: FakeCall) -> None:
        begin = call.now_ms()
        call.says(SPEECH)
        seen.append(call.now_ms() - begin)
        call.hears(SPEECH)
        call.press("12#")
        call.sleep(2)
        call.hang_up()

    call = fake.place_call(from_=THEM, phone=Phone(script=person))
    assert call.wait_ended() == "completed"
    assert seen == [pytest.approx(1020, abs=1)]
    assert [m["dtmf"]["digit"] for m in app.of("dtmf")] == ["1", "2", "#"]


def test_hearing_goes_on_where_it_stopped(fake: FakeTwilio, app: EchoApp) -> None:
    """Audio that was dealt with is not heard again; so many ms mean so many more."""

    def person(call: FakeCall) -> None:
        call.begins_to_say(SPEECH + SPEECH)
        call.hears(SPEECH)
        call.hears(SPEECH)
        with pytest.raises(TimeoutError, match="1000 ms of given audio"):
            call.hears(SPEECH, timeout=3)
        before = call.heard.heard_ms()
        call.hears(before + 5000 - call._heard_so_far / 8)
        assert call.heard.heard_ms() == pytest.approx(before + 5000, abs=20)
        call.wait_heard_ms(12_000)
        assert call.heard.heard_ms() >= 12_000
        call.hang_up()

    assert fake.place_call(from_=THEM, phone=Phone(script=person)).wait_ended() == "completed"


def test_falling_silent(fake: FakeTwilio, app: EchoApp) -> None:
    """The rest of the sentence is never heard."""

    def person(call: FakeCall) -> None:
        call.begins_to_say(SPEECH)
        call.sleep(0.5)
        call.stops_talking()
        call.sleep(2)
        assert call.heard.find(SPEECH[:3900]) >= 0
        assert call.heard.find(SPEECH[:4100]) < 0
        call.hang_up()

    assert fake.place_call(from_=THEM, phone=Phone(script=person)).wait_ended() == "completed"


def test_quiet_is_when_nothing_is_played(fake: FakeTwilio, app: EchoApp) -> None:
    """wait_quiet() returns so long after the last sound, to a frame."""
    app.twiml["/twilio/voice"] = '<Response><Pause length="1"/><Say>x</Say><Pause length="30"/></Response>'
    call = fake.place_call(from_=THEM)
    call.sleep(2)
    call.heard.add(call.now_ms(), SPEECH)
    last = call.now_ms() + 1000
    call.wait_quiet(700)
    assert last + 700 <= call.now_ms() <= last + 720.1


def test_verbs_end_with_the_call(fake: FakeTwilio, app: EchoApp) -> None:
    """A script that talks on when the call is over ends quietly; a test that does gets CallHangupError."""
    ended: list[BaseException] = []

    def person(call: FakeCall) -> None:
        try:
            call.says(SPEECH * 60)
        except CallHangupError as error:
            ended.append(error)
            raise

    call = fake.place_call(from_=THEM, phone=Phone(script=person, hang_up_after_s=5))
    assert call.wait_ended(20) == "completed"
    assert len(ended) == 1
    assert call.script_error is None
    with pytest.raises(CallHangupError):
        call.press("1")
    with pytest.raises(CallHangupError):
        call.wait_heard_ms(1e9)
    call.hang_up()


def test_a_script_that_fails_hangs_up_and_is_heard_of(fake: FakeTwilio, app: EchoApp) -> None:
    """wait_ended() raises what the script raised."""

    def person(call: FakeCall) -> None:
        assert call.from_ == "somebody else"

    with pytest.raises(AssertionError, match="somebody else"):
        fake.place_call(from_=THEM, phone=Phone(script=person)).wait_ended()


def test_waiting_has_an_end(fake: FakeTwilio, app: EchoApp) -> None:
    """Each wait raises TimeoutError after its timeout, saying what it waited for."""
    call = fake.place_call(from_=THEM)
    call.wait_streaming()
    with pytest.raises(TimeoutError, match="to end within 3 s; it is in-progress"):
        call.wait_ended(3)
    with pytest.raises(TimeoutError, match="to be heard in all"):
        call.wait_heard_ms(1e9, timeout=2)
    with pytest.raises(TimeoutError, match="no outbound call"):
        fake.wait_for_call(timeout=1)


def test_a_call_knows_its_story(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> None:
    """sid, numbers, streams and the log's entries about it."""
    call = fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=3))
    assert call.outcome is None
    call.wait_ended()
    assert (call.sid[:2], call.from_, call.to) == ("CA", THEM, "+15005550006")
    assert fake.call(call.sid) is call
    assert fake.calls == [call]
    assert [stream.url for stream in call.streams] == ["wss://voice.example.com/voice"]
    assert {"webhook", "status", "verb", "stream"} <= {entry.kind for entry in call.events}
