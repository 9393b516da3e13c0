"""Answering machines, and what their detection finds when."""

from __future__ import annotations

from typing import Any

import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_sound import beep
from voice_runtime.testing.phone import FakeCall, Phone

from .conftest import OURS
from .echo_app import HOST
from .leg_app import LegApp, speech, to_leg

THEM = "+4930123456"
GREETING = speech(1, 2000)
MESSAGE = speech(2, 1500)
ANSWERED_S = 0.32 + 1.5  # after the call was created: dialling, then a telephone's usual ring
SILENCE = b"\xff"


@pytest.fixture
def app(fake: FakeTwilio) -> LegApp:
    app = LegApp(fake.auth_token)
    fake.mount(HOST, app.app)
    fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice")
    app.twiml["/twilio/voice"] = to_leg("out")
    return app


def dial(fake: FakeTwilio, client: Client, phone: Phone, **more: Any) -> FakeCall:
    """An outbound call with detection and all callbacks."""
    fake.phones[THEM] = phone
    options: dict[str, Any] = {
        "machine_detection": "DetectMessageEnd",
        "url": f"https://{HOST}/twilio/voice",
        "status_callback": f"https://{HOST}/status",
        "status_callback_event": ["initiated", "ringing", "answered", "completed"],
        **more,
    }
    if options.get("async_amd"):
        options["async_amd_status_callback"] = f"https://{HOST}/status-amd"
    return fake.call(client.calls.create(to=THEM, from_=OURS, **options).sid)


def machine(**more: Any) -> Phone:
    return Phone(answered_by="machine", greeting=GREETING, **more)


def told_s(fake: FakeTwilio, call: FakeCall, path: str = "/status-amd") -> float:
    """When a callback was made, seconds after the answer."""
    entry = next(e for e in fake.log.entries("callback", call.sid) if e.data["url"].endswith(path))
    return entry.at_s - call.status_history[0][0] - ANSWERED_S


def test_a_machine_says_its_greeting_beeps_and_records(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """No script: the app hears greeting and beep in one piece; what it says later is the message, at its place."""
    app.lines["out"] = [(3000, MESSAGE)]
    call = dial(fake, client, machine(hang_up_after_s=10), machine_detection="Enable", async_amd="true")
    assert call.wait_ended() == "completed"
    stream_began_s = 0.03 + 0.365  # the request for TwiML, the connection
    missed = round((stream_began_s + 0.1 - 0.02) * 8000)  # the first frame holds the 20 ms before it
    assert app.heard["out"].startswith((GREETING + beep(500))[missed:])
    beeped_s = 2.0 + 0.5
    lead = round((stream_began_s + 3 - beeped_s) * 8000)
    left = call.message_left
    assert left == SILENCE * lead + MESSAGE + SILENCE * (round((10 - beeped_s) * 8000) - lead - len(MESSAGE))


def test_what_is_said_before_the_beep_is_not_left(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """Of a message that begins too early the machine keeps the rest."""
    app.lines["out"] = [(1500, MESSAGE)]
    call = dial(fake, client, machine(hang_up_after_s=6), async_amd="true")
    call.wait_ended()
    cut = round((2.5 - 0.395 - 1.5) * 8000)
    assert call.message_left.rstrip(SILENCE) == MESSAGE[cut:]


def test_no_message_before_the_beep(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """A call that ends during the greeting leaves nothing, and so does a person."""
    call = dial(fake, client, machine(hang_up_after_s=1.9), async_amd="true")
    call.wait_ended()
    assert call.message_left == b""
    call = dial(fake, client, Phone(hang_up_after_s=4), async_amd="true")
    call.wait_ended()
    assert call.message_left == b""


def test_the_message_can_be_followed(fake: FakeTwilio, app: LegApp, client: Client, clock: VirtualClock) -> None:
    """message_left grows while the call lasts."""
    app.lines["out"] = [(2500, MESSAGE)]
    call = dial(fake, client, machine(), async_amd="true")
    call.wait_streaming()
    assert call.message_left == b""
    clock.sleep(3.5)
    assert MESSAGE[:4000] in call.message_left
    assert MESSAGE not in call.message_left
    clock.sleep(2)
    assert MESSAGE in call.message_left


@pytest.mark.parametrize(
    ("phone", "options", "found", "ms"),
    [
        (machine(), {}, "machine_end_beep", 2500),
        (machine(beep_ms=200), {}, "machine_end_beep", 2200),
        (machine(beep_ms=0), {}, "machine_end_silence", 3200),
        (machine(beep_ms=0), {"machine_detection_speech_end_threshold": 3000}, "machine_end_silence", 5000),
        (machine(detection_ms=1800), {"machine_detection": "Enable"}, "machine_start", 1800),
        (Phone(answered_by="machine", detection_ms=4000), {}, "machine_end_beep", 4000),
        (Phone(answered_by="machine", detection_ms=4000, beep_ms=0), {}, "machine_end_silence", 4000),
        (Phone(detection_ms=1700), {}, "human", 1700),
        (Phone(answered_by="fax", detection_ms=1700), {"machine_detection": "Enable"}, "fax", 1700),
        (Phone(answered_by="unknown", detection_ms=1700), {}, "unknown", 1700),
        (
            Phone(answered_by="machine", greeting=speech(3, 20_000)),
            {"machine_detection_timeout": 10},
            "unknown",
            10_000,
        ),
        (Phone(detection_ms=6000), {"machine_detection_timeout": 3}, "unknown", 3000),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_verdicts_and_their_times(
    fake: FakeTwilio,
    app: LegApp,
    client: Client,
    clock: VirtualClock,
    phone: Phone,
    options: dict[str, Any],
    found: str,
    ms: int,
    asynchronous: bool,
) -> None:
    """Enable decides while the machine still talks, DetectMessageEnd at the end of greeting and beep; or time is up.

    The request for TwiML waits for it, unless it is asynchronous.
    """
    more = {"async_amd": "true"} if asynchronous else {}
    call = dial(fake, client, phone, **options, **more)
    clock.sleep(25)
    call.hang_up()
    call.wait_ended()
    form = app.forms("/twilio/voice")[0]
    voiced_s = next(e for e in fake.log.entries("webhook", call.sid)).at_s - call.status_history[0][0] - ANSWERED_S
    if asynchronous:
        assert voiced_s == pytest.approx(0.03)
        assert "AnsweredBy" not in form
        form = app.forms("/status-amd")[0]
        assert form.keys() == {"AccountSid", "CallSid", "AnsweredBy", "MachineDetectionDuration"}
        assert told_s(fake, call) == pytest.approx(ms / 1000 + 0.005)
    else:
        assert voiced_s == pytest.approx(ms / 1000 + 0.03)
    assert (form["AnsweredBy"], form["MachineDetectionDuration"]) == (found, str(ms))
    assert app.forms("/status")[-1]["AnsweredBy"] == found
    assert client.calls(call.sid).fetch().answered_by == call.answered_by == found


def test_the_verdict_has_the_faults_of_callbacks(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """Late, twice, never; and what comes after it knows it."""
    fake.faults.duplicate_callbacks = True
    fake.faults.callback_delay_ms = 700
    call = dial(fake, client, machine(hang_up_after_s=9), async_amd="true", status_callback="")
    call.wait_ended()
    assert len(app.forms("/status-amd")) == 2
    assert told_s(fake, call) == pytest.approx(2.5 + 0.705)
    fake.faults.drop_callbacks = True
    dial(fake, client, machine(hang_up_after_s=9), async_amd="true").wait_ended()
    assert len(app.forms("/status-amd")) == 2


def test_a_call_that_ends_first_has_no_verdict(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """Neither told nor kept; whoever hung up while the detection held the call was on the line."""
    call = dial(fake, client, machine(hang_up_after_s=1), async_amd="true")
    assert call.wait_ended() == "completed"
    assert app.forms("/status-amd") == []
    call = dial(fake, client, machine(hang_up_after_s=1))
    assert call.wait_ended() == "completed"
    assert call.answered_by is None
    assert app.forms("/status")[-1]["SipResponseCode"] == "200"


def test_send_digits_switches_the_detection_off(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """No verdict; the machine answers all the same."""
    call = dial(fake, client, machine(hang_up_after_s=5), send_digits="12")
    call.wait_ended()
    assert "AnsweredBy" not in app.forms("/status")[-1]
    assert call.keys_heard == "12"
    assert GREETING[-800:] in app.heard["out"]


def test_a_person_may_say_hello_at_once(fake: FakeTwilio, app: LegApp, client: Client) -> None:
    """greeting is for everybody, the beep for machines."""
    hello = speech(4, 3000)
    dial(fake, client, Phone(greeting=hello, hang_up_after_s=5), machine_detection="").wait_ended()
    assert bytes(app.heard["out"]).rstrip(SILENCE).endswith(hello[-8000:])


@pytest.mark.parametrize(
    "options",
    [
        {"machine_detection_timeout": 2},
        {"machine_detection_timeout": 60},
        {"machine_detection_speech_end_threshold": 100},
    ],
)
def test_thresholds_have_their_ranges(fake: FakeTwilio, app: LegApp, client: Client, options: dict[str, int]) -> None:
    """Outside of them the request is refused."""
    with pytest.raises(TwilioRestException) as caught:
        dial(fake, client, machine(), **options)
    assert (caught.value.status, caught.value.code) == (400, 20001)
