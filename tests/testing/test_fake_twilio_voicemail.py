"""<Record>: the voicemail of a caller."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_sound import beep
from voice_runtime.testing.phone import FakeCall, Phone

from .echo_app import HOST, EchoApp
from .leg_app import speech

THEM = "+4930123456"
WORDS = speech(1, 1500)
RECORD = '<Response><Record action="/recorded"/><Say>Nothing came</Say></Response>'
Person = Callable[[FakeCall], object]


def leave(fake: FakeTwilio, app: EchoApp, person: Person | None, twiml: str = RECORD) -> FakeCall:
    """A caller who is asked for a message."""
    app.twiml["/twilio/voice"] = twiml
    app.twiml.setdefault("/recorded", "<Response><Say>Thank you</Say></Response>")
    call = fake.place_call(from_=THEM, phone=Phone(script=person))
    call.wait_ended(100)
    return call


def test_a_message_is_left(fake: FakeTwilio, app: EchoApp, client: Client, clock: VirtualClock) -> None:
    """A beep, the words, five seconds of silence; the action has the facts, the API the audio, trimmed."""
    call = leave(fake, app, lambda call: call.says(WORDS))
    assert call.heard.heard_ulaw() == beep(500)
    assert call.said == ["Thank you"]
    form = app.forms("/recorded")[0]
    recording = fake.recordings[0]
    assert (form["RecordingSid"], form["RecordingDuration"], form["Digits"]) == (recording.sid, "2", "")
    assert (
        form["RecordingUrl"]
        == f"{fake.api_base_url}/2010-04-01/Accounts/{fake.account_sid}/Recordings/{recording.sid}"
    )
    assert bytes(recording.inbound) == WORDS
    clock.sleep(2)
    shown = client.recordings(recording.sid).fetch()
    assert (shown.source, shown.status, shown.channels, shown.call_sid) == ("RecordVerb", "completed", 1, call.sid)
    asked_s = next(e.at_s for e in call.events if e.kind == "webhook" and e.data["url"].endswith("/recorded"))
    assert asked_s - call.status_history[0][0] == pytest.approx(0.5 + 1.5 + 5 + 0.03, abs=0.03)


def test_a_key_ends_it(fake: FakeTwilio, app: EchoApp) -> None:
    """Any key, or those of finishOnKey; the action is told which."""

    def person(call: FakeCall) -> None:
        call.says(WORDS)
        call.press("5#")

    leave(fake, app, person)
    assert app.forms("/recorded")[0]["Digits"] == "5"
    leave(fake, app, person, RECORD.replace("<Record ", '<Record finishOnKey="#" '))
    assert app.forms("/recorded")[1]["Digits"] == "#"


def test_pauses_are_part_of_it(fake: FakeTwilio, app: EchoApp) -> None:
    """Silence shorter than the time-out does not end it; trimming takes only the ends."""

    def person(call: FakeCall) -> None:
        call.sleep(1)
        call.says(WORDS)
        call.sleep(2)
        call.says(WORDS)

    leave(fake, app, person, RECORD.replace("<Record ", '<Record timeout="3" '))
    pause = b"\xff" * 16_160  # the last frame of what was said leaves 20 ms later
    assert bytes(fake.recordings[0].inbound) == WORDS + pause + WORDS
    leave(fake, app, person, RECORD.replace("<Record ", '<Record timeout="3" trim="do-not-trim" playBeep="false" '))
    assert bytes(fake.recordings[1].inbound).startswith(b"\xff" * 8000 + WORDS)
    assert bytes(fake.recordings[1].inbound).endswith(WORDS + b"\xff" * 24_000)


def test_it_has_a_longest_length(fake: FakeTwilio, app: EchoApp) -> None:
    """maxLength cuts whoever talks on."""
    leave(fake, app, lambda call: call.says(WORDS * 4), RECORD.replace("<Record ", '<Record maxLength="2" '))
    assert bytes(fake.recordings[0].inbound) == (WORDS * 4)[:16_000]
    assert app.forms("/recorded")[0]["RecordingDuration"] == "2"


def test_silence_is_no_message(fake: FakeTwilio, app: EchoApp) -> None:
    """The action is not asked; the next verb follows."""
    call = leave(fake, app, None)
    assert call.said == ["Nothing came"]
    assert app.forms("/recorded") == []


def test_a_caller_who_hangs_up(fake: FakeTwilio, app: EchoApp) -> None:
    """The message is kept, and the action told that a hang-up ended it."""

    def person(call: FakeCall) -> None:
        call.says(WORDS)
        call.hang_up()

    call = leave(fake, app, person)
    assert call.said == []
    form = app.forms("/recorded")[0]
    assert (form["Digits"], form["CallStatus"], form["RecordingDuration"]) == ("hangup", "completed", "2")
    assert bytes(fake.recordings[0].inbound) == WORDS


def test_without_an_action_it_asks_its_own_document(fake: FakeTwilio, app: EchoApp) -> None:
    """And would begin again for ever."""

    def person(call: FakeCall) -> None:
        call.says(WORDS)
        call.sleep(8)
        call.hang_up()

    leave(fake, app, person, "<Response><Record/></Response>")
    assert "RecordingSid" in app.forms("/twilio/voice")[1]


def test_the_recording_has_callbacks(fake: FakeTwilio, app: EchoApp, clock: VirtualClock) -> None:
    """recordingStatusCallback, relative to the document."""
    leave(
        fake,
        app,
        lambda call: call.says(WORDS),
        RECORD.replace("<Record ", '<Record recordingStatusCallback="/status" '),
    )
    clock.sleep(2)
    form = app.forms("/status")[0]
    assert (form["RecordingStatus"], form["RecordingSource"]) == ("completed", "RecordVerb")
    assert form["RecordingSid"] == fake.recordings[0].sid
    assert [e.data["url"] for e in fake.log.entries("callback")] == [f"https://{HOST}/status"]
