"""Leaving a message on an answering machine: after its beep, or after its silence, and whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.town import CALLER, VOICE, Town, town
from voice_runtime.audio.g711 import pcm16_to_ulaw
from voice_runtime.events import Outcome
from voice_runtime.exceptions import CallHangupError
from voice_runtime.flow import Call
from voice_runtime.session import VoiceSession
from voice_runtime.testing.phone import FakeCall, Phone

MESSAGE = "please call us back about your booking"


def speech(ms: int) -> bytes:
    """Somebody talking: a voice of gliding pitch in syllables, four a second."""
    at = np.arange(ms * 8) / 8000
    pitch = 130 + 25 * np.sin(2 * np.pi * 0.7 * at) + 12 * np.sin(2 * np.pi * 2.3 * at)
    phase = 2 * np.pi * np.cumsum(pitch) / 8000
    voice = sum(np.sin(n * phase) / n for n in range(1, 12))
    syllables = np.abs(np.sin(2 * np.pi * 2 * at)) ** 0.6
    return pcm16_to_ulaw((voice * syllables * 4000).astype(np.int16).tobytes())


GREETING = speech(4000)


class Caller(VoiceSession):
    """Greets whoever it is, and leaves a message on a machine."""

    def run(self) -> str:
        self.say("hello this is the booking office")
        self.sleep(60)
        return "person"

    def on_machine(self) -> Any:
        return self.leave_message(MESSAGE)


def dialled(t: Town, mode: str | None = "message_end", flow: Any = Caller, **phone: Any) -> tuple[Call, FakeCall]:
    """A call that a machine has answered, when it is over; as the server and as Twilio have it."""
    server = t.serve(flow)
    t.fake.phones[CALLER] = Phone(ring_ms=500, answered_by="machine", **phone)
    call = server.dial(CALLER, machine_detection=mode)
    assert call.wait(180)
    assert call.error is None
    return call, t.fake.calls[-1]


class TestLeaveMessage:
    """VoiceSession.leave_message()."""

    @pytest.mark.parametrize("mode", ["enable", "message_end"])
    @pytest.mark.parametrize(
        "phone",
        [
            {"greeting": GREETING, "beep_ms": 500},
            {"greeting": GREETING, "beep_ms": 150},
            {"greeting": GREETING, "beep_ms": 1000},
            {"greeting": speech(12_000), "beep_ms": 400, "detection_ms": 1500},
            {"greeting": b"", "beep_ms": 500, "detection_ms": 2500},
        ],
    )
    def test_the_machine_has_all_of_it(self, mode: str, phone: dict[str, Any]) -> None:
        """From the first word to the last, and nothing else: it begins after the beep, whether the detection has
        heard that or we do."""
        with town() as t:
            call, machine = dialled(t, mode, **phone)
            left = machine.message_left
            assert left.strip(b"\xff") == VOICE.audio(MESSAGE)
            assert len(left) - len(left.lstrip(b"\xff")) < 3 * 8000
            assert call.result.complete
            assert call.result.heard_text == MESSAGE
            assert call.outcome == "machine"
            assert machine.wait_ended(5) == "completed"

    @pytest.mark.parametrize(("mode", "silence_s"), [("enable", 2.5), ("message_end", 1.2 + 1.2)])
    def test_a_machine_without_a_beep(self, mode: str, silence_s: float) -> None:
        """Its silence is enough; less of it where the detection has waited for as much already."""
        with town() as t:
            call, machine = dialled(t, mode, greeting=GREETING, beep_ms=0)
            heard = machine.heard.heard_ulaw()
            assert heard.endswith(VOICE.audio(MESSAGE))
            assert VOICE.audio(MESSAGE) in machine.message_left
            began_s = machine.message_left.index(VOICE.audio(MESSAGE)) / 8000
            assert began_s == pytest.approx(silence_s, abs=0.3)
            assert call.result.complete

    def test_a_greeting_with_a_long_pause(self) -> None:
        """Is taken for over, until it goes on: the message is begun again after the beep, and is there whole."""
        with town() as t:
            greeting = speech(3000) + b"\xff" * (8 * 3500) + speech(3000)
            call, machine = dialled(t, "enable", greeting=greeting, beep_ms=500)
            left = machine.message_left.rstrip(b"\xff")
            assert left.endswith(VOICE.audio(MESSAGE))
            assert call.result.complete

    def test_a_greeting_that_never_ends(self) -> None:
        """Is sat through for as long as was said; then the message is left all the same, and again while it talks."""

        class Impatient(Caller):
            def on_machine(self) -> Any:
                at = self.clock.monotonic()
                result = self.leave_message(MESSAGE, timeout=10)
                return self.clock.monotonic() - at, result

        with town() as t:
            call, machine = dialled(t, "enable", Impatient, greeting=speech(60_000), beep_ms=500)
            seconds, result = call.result
            times = machine.heard.heard_ulaw().count(VOICE.audio(MESSAGE))
            assert 1 <= times <= 3
            assert seconds == pytest.approx(times * (10 + len(VOICE.audio(MESSAGE)) / 8000), abs=1)
            assert result.complete
            assert machine.heard.heard_ulaw().endswith(VOICE.audio(MESSAGE))

    def test_what_was_being_said_to_the_machine_is_cut(self) -> None:
        """Within the moment that the verdict takes to arrive: the message is what is said to a machine."""

        class Talkative(Caller):
            def run(self) -> str:
                self.say("word " * 200)
                return "person"

        with town() as t:
            _, machine = dialled(t, "message_end", Talkative, greeting=GREETING, beep_ms=500)
            left = machine.message_left.rstrip(b"\xff")
            assert left.endswith(VOICE.audio(MESSAGE))
            assert len(left) / 8 < len(VOICE.audio(MESSAGE)) / 8 + 60

    def test_a_machine_that_hangs_up(self) -> None:
        """The partial result tells how much of the message it has."""
        caught: list[CallHangupError] = []

        class Careful(Caller):
            def on_machine(self) -> Any:
                try:
                    self.leave_message("word " * 100)
                except CallHangupError as error:
                    caught.append(error)
                    raise

        with town() as t:
            call, machine = dialled(t, "message_end", Careful, greeting=GREETING, beep_ms=500, hang_up_after_s=10)
            (error,) = caught
            assert error.partial.outcome is Outcome.HUNG_UP
            assert error.partial.heard_ms == pytest.approx(len(machine.message_left.strip(b"\xff")) / 8, abs=40)
            assert call.ended_reason == "caller_hung_up"

    def test_a_machine_that_hangs_up_before_its_beep(self) -> None:
        """Nothing was left, and the wait ends at once."""
        caught: list[CallHangupError] = []

        class Careful(Caller):
            def on_machine(self) -> Any:
                try:
                    self.leave_message(MESSAGE)
                except CallHangupError as error:
                    caught.append(error)
                    raise

        with town() as t:
            _, machine = dialled(t, "enable", Careful, greeting=speech(30_000), beep_ms=500, hang_up_after_s=6)
            assert [error.partial for error in caught] == [None]
            assert machine.message_left == b""
            assert t.clock.monotonic() < 9

    def test_without_detection_it_can_be_used_by_hand(self) -> None:
        """A flow that knows that a machine is there."""

        class Sure(VoiceSession):
            def run(self) -> Any:
                return self.leave_message(MESSAGE)

        with town() as t:
            call, machine = dialled(t, None, Sure, greeting=GREETING, beep_ms=500)
            assert machine.message_left.strip(b"\xff") == VOICE.audio(MESSAGE)
            assert call.result.complete
            assert call.outcome == "answered"


def test_a_line_without_any_audio_is_not_waited_for() -> None:
    """The message is said after the time given, not never."""
    from voice_runtime.testing.fake_twilio_settings import Faults
    from voice_runtime.transports.mock_line import LineFaults

    class Sure(VoiceSession):
        def run(self) -> Any:
            at = self.clock.monotonic()
            self.leave_message(MESSAGE, timeout=3)
            return self.clock.monotonic() - at

    with town(faults=Faults(line=LineFaults(gaps=((500, 9000),)))) as t:
        server = t.serve(Sure)
        call = t.call()
        assert call.wait_ended(60) == "completed"
        assert server.finished[-1].result == pytest.approx(3 + len(VOICE.audio(MESSAGE)) / 8000, abs=1)
