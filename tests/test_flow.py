"""A call as the program around it sees it: how it was answered, how it is ended, and what runs in its thread."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest

from tests.call_line import ScriptedVoice, speaking
from tests.town import CALLER, VOICE, Greeter, Sleeper, Town, town
from voice_runtime.events import CallEnded, FlowFailed, MachineDetected
from voice_runtime.exceptions import (
    CallHangupError,
    CallNotAnsweredError,
    ConfigurationError,
    MachineAnsweredError,
    PolicyError,
    RestError,
    WrongThreadError,
)
from voice_runtime.facts import CallOutcome
from voice_runtime.flow import Call
from voice_runtime.policy import CallPolicy
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio_settings import Faults
from voice_runtime.testing.phone import Phone, block_on
from voice_runtime.transports import twilio_rest

GREETING = bytes(range(100, 104)) * 6000  # three seconds of a machine that talks


class TestHowItWasAnswered:
    """Call.outcome, and what wait_answered() raises."""

    @pytest.mark.parametrize(
        ("phone", "outcome", "sip_code"),
        [
            ({"answer": "busy"}, CallOutcome.BUSY, None),
            ({"answer": "no-answer"}, CallOutcome.NO_ANSWER, None),
            ({"answer": "reject"}, CallOutcome.REJECTED, None),
            ({"answer": "failed"}, CallOutcome.FAILED, 404),
        ],
    )
    @pytest.mark.parametrize("fault", ["", "duplicate_callbacks", "reorder_callbacks"])
    def test_not_at_all(self, phone: dict[str, Any], outcome: CallOutcome, sip_code: int | None, fault: str) -> None:
        """At once when Twilio tells, however it tells: why, and for a failure a sentence with the carrier's code."""
        with town() as t:
            if fault:
                setattr(t.fake.faults, fault, True)
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(**phone)
            call = server.dial(CALLER, timeout=10)
            with pytest.raises(CallNotAnsweredError) as caught:
                call.wait_answered()
            assert t.clock.monotonic() < 12
            assert caught.value.outcome is call.outcome is outcome
            assert not call.outcome.answered
            assert call.wait(1)
            assert (call.ended_reason, call.result, call.error) == (outcome, None, None)
            if sip_code is None:
                assert caught.value.failure is None
            else:
                assert caught.value.failure is call.failure
                assert call.failure is not None
                assert call.failure.sip_code == sip_code
                assert str(sip_code) in str(caught.value)

    def test_by_a_person(self) -> None:
        """As far as anybody knows; while it rings nothing is known."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=3000)
            call = server.dial(CALLER)
            assert call.outcome is None
            assert repr(call) == f"<Call {call.call_sid}: under way>"
            call.wait_answered(30)
            assert call.outcome is CallOutcome.ANSWERED
            assert call.wait(60)
            assert call.outcome is CallOutcome.ANSWERED
            assert repr(call) == f"<Call {call.call_sid}: hung_up>"

    def test_time_runs_out(self) -> None:
        """While it still rings: no outcome, and the call goes on ringing."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=20_000)
            call = server.dial(CALLER)
            with pytest.raises(CallNotAnsweredError) as caught:
                call.wait_answered(5)
            assert (caught.value.outcome, caught.value.timeout) == (None, 5)
            call.wait_answered(30)
            assert call.outcome is CallOutcome.ANSWERED

    def test_ended_by_us_while_it_rang(self) -> None:
        """Canceled, here and at Twilio."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=20_000)
            call = server.dial(CALLER)
            t.clock.sleep(2)
            call.hang_up()
            with pytest.raises(CallNotAnsweredError, match="canceled"):
                call.wait_answered()
            assert (call.outcome, call.ended_reason) == (CallOutcome.CANCELED, "canceled")
            assert t.fake.wait_for_call(to=CALLER).wait_ended(5) == "canceled"

    def test_answered_and_its_stream_never_came(self, caplog: pytest.LogCaptureFixture) -> None:
        """A failure that says where to look."""
        with town(faults=Faults(handshake_403=100)) as t:
            server = t.serve(Greeter)
            call = server.dial(CALLER)
            with pytest.raises(CallNotAnsweredError, match="VOICE_STREAM_URL") as caught:
                call.wait_answered()
            assert caught.value.outcome is CallOutcome.FAILED
            assert call.ended_reason == "never_connected"
            assert t.fake.wait_for_call(to=CALLER).wait_ended(30) == "completed"
            caplog.clear()


class TestPlacedOnce:
    """However Twilio's answer fails."""

    @pytest.mark.parametrize(
        ("fault", "times", "placed"),
        [
            ("rest_429", 2, 1),
            ("rest_429", 100, 0),
            ("rest_503_before", 1, 0),
            ("rest_500_after", 1, 1),
            ("rest_500_after", 100, 1),
            ("rest_reset", 1, 1),
        ],
    )
    @pytest.mark.parametrize("told", [True, False])
    def test_no_second_call(
        self, fault: str, times: int, placed: int, told: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Refused, lost before or after the deed, whether or not callbacks come: one call at most, and the program
        has it or is told that it may exist."""
        with town() as t:
            setattr(t.fake.faults, fault, times)
            t.fake.faults.drop_callbacks = not told
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=1000)
            with contextlib.suppress(RestError):
                call = server.dial(CALLER)
                assert call.call_sid == t.fake.calls[0].sid
                assert call.wait(60)
            setattr(t.fake.faults, fault, 0)
            t.clock.sleep(130)
            assert len(t.fake.calls) == placed
            assert server._switchboard.open == []
            caplog.clear()

    def test_an_answer_that_takes_too_long(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The request may have been carried out, so it is not made again; the callback tells."""
        monkeypatch.setattr(twilio_rest, "REQUEST_TIMEOUT_SECONDS", 0.2)
        with town() as t:
            server = t.serve(Greeter)
            t.fake.faults.rest_slow_s = 0.5
            call = server.dial(CALLER)
            t.fake.faults.rest_slow_s = 0
            assert call.wait(60)
            assert [twilios.sid for twilios in t.fake.calls] == [call.call_sid]
            caplog.clear()

    def test_a_call_that_was_refused_for_certain_used_nothing_up(self) -> None:
        """Of the caps of the day; one that may exist did."""
        with town() as t:
            policy = CallPolicy(allowed_countries="*", calls_per_day=1)
            server = t.serve(Greeter, policy=policy)
            t.fake.allowed_countries = {"SE"}
            for _ in range(3):
                with pytest.raises(RestError) as caught:
                    server.dial(CALLER)
                assert not caught.value.maybe_done
            t.fake.allowed_countries = None
            t.fake.faults.rest_503_before = 1
            with pytest.raises(RestError) as caught:
                server.dial(CALLER)
            assert caught.value.maybe_done
            with pytest.raises(PolicyError, match="calls_per_day"):
                server.dial(CALLER)

    def test_the_place_under_the_cap_is_free_when_the_call_is_over(self) -> None:
        """Answered or not, and also when it could not be placed."""
        with town() as t:
            policy = CallPolicy(allowed_countries="*", concurrent_calls=1)
            server = t.serve(Greeter, policy=policy)
            answers: list[Any] = ["busy", "answer", "failed", "no-answer"]
            for answer in answers:
                t.fake.phones[CALLER] = Phone(ring_ms=200, answer=answer)
                call = server.dial(CALLER, timeout=5)
                with pytest.raises(PolicyError, match="concurrent_calls"):
                    server.dial(CALLER)
                assert call.wait(60)
                t.clock.sleep(1)
            t.fake.faults.rest_503_before = 1
            with pytest.raises(RestError):
                server.dial(CALLER)
            t.clock.sleep(1)
            t.fake.phones[CALLER] = Phone(answer="busy")
            assert server.dial(CALLER).wait(60)


class TestHangUp:
    """Call.hang_up(), and the session's."""

    def everybody(self, t: Town, work: Any, count: int = 8) -> list[BaseException]:
        """Many threads at once; what they raised."""
        errors: list[BaseException] = []

        def one() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                errors.append(error)

        for thread in [t.clock.start_thread(one, f"hang-up {n}") for n in range(count)]:
            thread.join()
        return errors

    @pytest.mark.parametrize("when", ["ringing", "up", "saying", "lost", "away", "over", "not answered"])
    def test_any_number_of_threads_at_any_time(self, when: str, caplog: pytest.LogCaptureFixture) -> None:
        """One end, no error, whether it rings, is up, is lost for a moment, is with somebody else, or is over."""
        with town() as t:
            agent = "+358409999999"

            class Flow(VoiceSession):
                def run(self) -> None:
                    if when == "saying":
                        self.say("word " * 100)
                    if when == "away":
                        self.transfer(agent)
                    self.sleep(3600 if when != "over" else 0.1)

            server = t.serve(Flow)
            t.fake.phones[CALLER] = Phone(
                ring_ms=60_000 if when == "ringing" else 500, answer="busy" if when == "not answered" else "answer"
            )
            t.fake.phones[agent] = Phone(ring_ms=100)
            call = server.dial(CALLER)
            t.clock.sleep(10)
            if when == "lost":
                t.fake.faults.webhook_timeout = 100
                twilios = t.fake.calls[0]
                t.fake._loop.call_soon_threadsafe(twilios.streams[-1].line._wire.abort)  # type: ignore[union-attr]
                t.clock.sleep(0.5)
            assert self.everybody(t, call.hang_up) == []
            assert call.wait(5)
            reasons = {"ringing": "canceled", "over": "hung_up", "not answered": "busy"}
            assert call.ended_reason == reasons.get(when, "cut")
            assert t.fake.calls[0].wait_ended(30) in ("completed", "canceled", "busy")
            assert self.everybody(t, call.hang_up) == []
            assert self.everybody(t, call.session.hang_up) == []
            t.clock.sleep(1)
            assert len(t.events.of(CallEnded)) == 1
            caplog.clear()

    def test_the_sessions_own_lets_everything_be_heard(self) -> None:
        """From several threads: the words are heard to the end, and the call ends once."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.put_outbound_sync(b"\x21" * 16_000)
                    self.sleep(3600)

            server = t.serve(Flow)
            call = t.call()
            call.wait_streaming()
            t.clock.sleep(0.2)
            assert self.everybody(t, server.calls[0].session.hang_up) == []
            assert call.wait_ended() == "completed"
            assert call.heard.heard_ulaw() == b"\x21" * 16_000
            assert server.finished[-1].ended_reason == "hung_up"

    def test_a_call_that_comes_in_and_has_no_stream_yet(self, caplog: pytest.LogCaptureFixture) -> None:
        """Is ended at Twilio; its flow never runs."""
        with town(faults=Faults(handshake_403=1)) as t:
            ran: list[int] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    ran.append(1)

            server = t.serve(Flow)
            call = t.call()
            t.clock.sleep(0.2)
            (ours,) = server._switchboard.open
            ours.hang_up()
            assert call.wait_ended(5) == "completed"
            assert ours.wait(5)
            assert (ours.outcome, ran) == (CallOutcome.CANCELED, [])
            caplog.clear()

    def test_an_api_that_fails_is_asked_again(self, caplog: pytest.LogCaptureFixture) -> None:
        """For us the call is over at once; the telephone stops ringing as soon as Twilio has understood."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=30_000)
            call = server.dial(CALLER)
            t.clock.sleep(1)
            t.fake.faults.rest_503_before = 2
            call.hang_up()
            assert call.ended_reason == "canceled"
            assert t.fake.calls[0].wait_ended(10) == "canceled"
            assert "could not be ended (attempt 2)" in caplog.text
            caplog.clear()

    def test_not_on_the_loops_thread(self) -> None:
        """It would stop every call."""
        with town() as t:
            server = t.serve(Sleeper)
            call = server.dial(CALLER)

            async def wrong() -> None:
                call.hang_up()

            assert t.fake._loop is not None
            with pytest.raises(WrongThreadError):
                block_on(wrong(), t.fake._loop, t.clock)
            call.hang_up()

    def test_before_its_stream_is_up(self) -> None:
        """request_disconnect() of a call that rings: it stops ringing."""
        with town() as t:
            server = t.serve(Sleeper)
            t.fake.phones[CALLER] = Phone(ring_ms=2000)
            call = server.dial(CALLER)
            call.session.request_disconnect()
            assert call.wait(10)
            assert call.ended_reason == "cut"
            assert t.fake.calls[0].wait_ended(5) == "canceled"


class TestTheServersEnd:
    """The server stops, and no call outlives it."""

    @pytest.mark.parametrize("where", ["ringing", "up", "lost", "away"])
    def test_wherever_a_call_is(self, where: str, caplog: pytest.LogCaptureFixture) -> None:
        """Ringing, up, between two streams, with somebody else: run() is left, and its thread ends."""
        agent = "+358409999999"
        left: list[str] = []

        class Flow(VoiceSession):
            def run(self) -> None:
                try:
                    self.say("hello")
                    if where == "away":
                        self.transfer(agent)
                    self.sleep(36_000)
                except CallHangupError as error:
                    left.append(error.reason)
                    raise

        with town(faults=Faults(drop_callbacks=True)) as t:
            server = t.serve(Flow)
            t.fake.phones[CALLER] = Phone(ring_ms=50_000 if where == "ringing" else 500)
            t.fake.phones[agent] = Phone(ring_ms=100)
            call = server.dial(CALLER)
            t.clock.sleep(20)
            if where == "away":
                t.clock.sleep(600)  # whether it is over is asked ever more rarely
                t.fake.faults.webhook_refused = 100
            if where == "lost":
                t.fake.faults.webhook_timeout = 100
                t.fake._loop.call_soon_threadsafe(t.fake.calls[0].streams[-1].line._wire.abort)  # type: ignore[union-attr]
                t.clock.sleep(0.2)
        assert call.ended_reason
        assert not call.flow_running
        assert len(left) == (where != "ringing")
        assert "has not ended with the server" not in caplog.text
        caplog.clear()


class TestMachines:
    """Calls that a machine answers."""

    def dialled(self, t: Town, flow: Any, mode: str = "enable", **phone: Any) -> tuple[Call, Any]:
        server = t.serve(flow)
        t.fake.phones[CALLER] = Phone(ring_ms=500, **phone)
        call = server.dial(CALLER, machine_detection=mode)
        return call, t.fake.calls[-1]

    @pytest.mark.parametrize(
        ("mode", "phone", "answered_by", "outcome"),
        [
            ("enable", {"answered_by": "human"}, "human", CallOutcome.ANSWERED),
            ("enable", {"answered_by": "unknown"}, "unknown", CallOutcome.ANSWERED),
            ("enable", {"answered_by": "fax"}, "fax", CallOutcome.FAX),
            ("enable", {"answered_by": "machine"}, "machine_start", CallOutcome.MACHINE),
            (
                "message_end",
                {"answered_by": "machine", "greeting": GREETING},
                "machine_end_beep",
                CallOutcome.MACHINE,
            ),
            (
                "message_end",
                {"answered_by": "machine", "greeting": GREETING, "beep_ms": 0},
                "machine_end_silence",
                CallOutcome.MACHINE,
            ),
            ("message_end", {"answered_by": "human"}, "human", CallOutcome.ANSWERED),
        ],
    )
    def test_who_answered_is_known(
        self, mode: str, phone: dict[str, Any], answered_by: str, outcome: CallOutcome
    ) -> None:
        """On the session, as an event, and in the outcome; a flow without on_machine() simply goes on."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> str:
                    self.sleep(10)
                    self.say("to whoever it is")
                    return self.answered_by

            call, twilios = self.dialled(t, Flow, mode, **phone)
            assert call.wait(60)
            assert (call.result, call.outcome, call.error) == (answered_by, outcome, None)
            assert outcome.answered
            (event,) = t.events.of(MachineDetected)
            assert event.answered_by == answered_by
            assert event.detection_ms > 0
            assert VOICE.audio("to whoever it is") in twilios.heard.heard_ulaw()

    def test_a_machine_takes_run_to_on_machine(self) -> None:
        """The agent falls silent at once, run() is left where it was, and what on_machine() returns is the result."""
        with town() as t:
            left: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> str:
                    try:
                        self.say("word " * 100)
                    except MachineAnsweredError as error:
                        left.append((error.answered_by, t.clock.monotonic(), threading.current_thread().name))
                        raise
                    return "person"

                def on_machine(self) -> str:
                    left.append(threading.current_thread().name)
                    self.say("beep beep")
                    return f"machine {self.answered_by}"

            call, twilios = self.dialled(t, Flow, answered_by="machine", detection_ms=3000)
            assert call.wait(60)
            assert (call.result, call.error, call.ended_reason) == ("machine machine_start", None, "hung_up")
            answered_by, at, thread = left[0]
            assert answered_by == "machine_start"
            assert thread == left[1]
            assert at == pytest.approx(t.events.of(MachineDetected)[0].at_ms / 1000 + 1.5, abs=0.7)
            heard = twilios.heard.heard_ulaw()
            assert heard.endswith(VOICE.audio("beep beep"))
            assert len(heard) / 8 < 3000 + 900
            assert t.events.of(FlowFailed) == []

    @pytest.mark.parametrize("answered_by", ["human", "unknown"])
    def test_a_person_hears_run_to_its_end(self, answered_by: Any) -> None:
        """Whom nobody can tell from one included."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> str:
                    self.say("word " * 20)
                    return "person"

                def on_machine(self) -> str:
                    return "machine"

            call, twilios = self.dialled(t, Flow, answered_by=answered_by)
            assert call.wait(60)
            assert call.result == "person"
            assert twilios.heard.heard_ulaw() == VOICE.audio("word " * 20)

    def test_a_fax_is_a_machine(self) -> None:
        """on_machine() can tell by answered_by."""
        with town() as t:

            class Flow(Sleeper):
                def on_machine(self) -> str:
                    return self.answered_by

            call, _ = self.dialled(t, Flow, answered_by="fax")
            assert call.wait(60)
            assert (call.result, call.outcome) == ("fax", CallOutcome.FAX)

    @pytest.mark.parametrize("verb", ["say", "listen", "sleep", "gather", "mark", "play", "the end of run()"])
    def test_whatever_run_waits_for(self, verb: str) -> None:
        """Each verb is left at once; on_machine() finds the line free."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    match verb:
                        case "say":
                            self.say("word " * 100)
                        case "listen":
                            self.listen(timeout=100)
                        case "sleep":
                            self.sleep(100)
                        case "gather":
                            self.gather("word " * 100, timeout=100)
                        case "play":
                            self.play(b"\x22" * 800_000)
                        case "mark":
                            self.put_outbound_sync(b"\x21" * 800_000)
                            self.send_mark_and_wait("m", 100)
                        case _:
                            self.put_outbound_sync(b"\x21" * 800_000)

                def on_machine(self) -> float:
                    at = t.clock.monotonic()
                    self.say("it is a machine")
                    return at

            call, twilios = self.dialled(t, Flow, answered_by="machine", detection_ms=5000)
            assert call.wait(60)
            assert call.error is None
            assert call.result == pytest.approx(0.3 + 0.5 + 5, abs=0.5)
            assert twilios.heard.heard_ulaw().endswith(VOICE.audio("it is a machine"))
            assert t.clock.monotonic() < 12

    def test_a_verdict_that_is_there_before_the_stream(self) -> None:
        """Then run() never begins."""
        with town() as t:
            ran: list[str] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    ran.append("run")

                def on_machine(self) -> str:
                    ran.append("on_machine")
                    return "left"

            server = t.serve(Flow)
            t.fake.phones[CALLER] = Phone(ring_ms=3000)
            call = server.dial(CALLER)
            call.machine_detected("machine_end_beep", 100)
            assert call.wait(60)
            assert (ran, call.result, call.outcome) == (["on_machine"], "left", CallOutcome.MACHINE)

    def test_a_verdict_at_the_very_moment_of_the_answer(self) -> None:
        """on_machine() runs once, and is not itself left through what was meant for run()."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.sleep(3600)

                def on_machine(self) -> str:
                    self.sleep(1)
                    return "once"

            server = t.serve(Flow)
            for _ in range(30):
                call = server.dial(CALLER)
                call.session.live.on_begun.append(lambda call=call: call.machine_detected("machine_start"))  # type: ignore[misc]
                assert call.wait(60)
                assert (call.result, call.error) == ("once", None)

    def test_a_verdict_that_comes_twice_or_late_changes_nothing(self) -> None:
        """The first counts; after the end none does."""
        with town() as t:

            class Flow(VoiceSession):
                times = 0

                def run(self) -> None:
                    self.sleep(3600)

                def on_machine(self) -> str:
                    type(self).times += 1
                    self.sleep(5)
                    return self.answered_by

            server = t.serve(Flow)
            call = server.dial(CALLER)
            call.wait_answered()
            for verdict in ("", "machine_start", "human", "machine_end_beep"):
                call.machine_detected(verdict)
            assert call.wait(60)
            assert (call.result, Flow.times, len(t.events.of(MachineDetected))) == ("machine_start", 1, 1)
            call.machine_detected("fax")
            assert call.outcome is CallOutcome.MACHINE

    def test_what_on_machine_raises_is_what_the_flow_raised(self, caplog: pytest.LogCaptureFixture) -> None:
        """Logged and kept; the machine gets the apology."""
        with town() as t:

            class Flow(Sleeper):
                def on_machine(self) -> None:
                    raise ZeroDivisionError("mine")

            server = t.serve(Flow, apology="so sorry")
            t.fake.phones[CALLER] = Phone(answered_by="machine")
            call = server.dial(CALLER, machine_detection="enable")
            assert call.wait(60)
            assert isinstance(call.error, ZeroDivisionError)
            assert t.fake.calls[-1].heard.heard_ulaw() == VOICE.audio("so sorry")
            caplog.clear()


class TestTheThread:
    """What run() runs in."""

    def test_a_flow_that_swallows_the_end_is_still_over(self) -> None:
        """Every verb raises again, and the call is over for everybody else."""
        with town() as t:
            caught: list[str] = []

            class Deaf(VoiceSession):
                def run(self) -> str:
                    for verb in (lambda: self.sleep(100), lambda: self.say("hello"), lambda: self.listen(timeout=1)):
                        try:
                            verb()
                        except CallHangupError as error:
                            caught.append(error.reason)
                    return "and yet it returns"

            server = t.serve(Deaf)
            call = t.call(script=lambda call: (call.sleep(1), call.hang_up()))
            call.wait_ended()
            ours = server.finished[-1]
            assert ours.wait(5)
            assert caught == ["caller_hung_up"] * 3
            assert (ours.result, ours.error) == ("and yet it returns", None)

    def test_the_hang_up_of_another_call_ends_this_one_too(self, caplog: pytest.LogCaptureFixture) -> None:
        """CallHangupError that is not of this call's making: the line is cut rather than left open."""
        caplog.set_level("INFO")
        with town() as t:

            class Odd(VoiceSession):
                def run(self) -> None:
                    raise CallHangupError("of another call")

            server = t.serve(Odd)
            assert t.call().wait_ended() == "completed"
            t.clock.sleep(1)
            assert (server.finished[-1].ended_reason, server.finished[-1].error) == ("cut", None)
            caplog.clear()

    def test_wait_is_for_the_flow_too(self) -> None:
        """A call is over when its line is and its run() is."""
        with town() as t:

            class Lingering(VoiceSession):
                def run(self) -> str:
                    self.hang_up()
                    t.clock.sleep(3)
                    return "written up"

            server = t.serve(Lingering)
            call = t.call()
            call.wait_ended()
            ours = server.finished[-1] if server.finished else server.calls[-1]
            assert not ours.wait(1)
            assert ours.flow_running
            assert ours.wait(5)
            assert (ours.result, ours.flow_running) == ("written up", False)

    def test_a_voice_that_fails_is_an_error_of_the_flow(self, caplog: pytest.LogCaptureFixture) -> None:
        """Unless it is handled; the call ends either way."""
        with town() as t:
            server = t.serve(Greeter, tts=speaking(ScriptedVoice(fail_after=0)), apology=None)
            assert t.call().wait_ended(30) == "completed"
            assert server.finished[-1].wait(5)
            assert "the voice is gone" in str(server.finished[-1].error)
            caplog.clear()


@pytest.mark.parametrize(
    "typed", ["+358401234567", "+358 40 123 4567", "040 123 4567", "00358-40-1234567", "(040) 1234567"]
)
def test_numbers_as_people_type_them(typed: str) -> None:
    """All the same telephone; the flow has it as Twilio writes it."""
    with town() as t:
        server = t.serve(Greeter, settings=t.settings(voice_default_country="FI"))
        call = server.dial(typed)
        assert call.wait(60)
        assert t.fake.calls[0].to == CALLER
        assert call.session.called_number == CALLER


def test_dialling_needs_a_number_of_ones_own() -> None:
    """Named, before anything is asked of Twilio."""
    with town() as t:
        server = t.serve(Greeter, settings=t.settings(twilio_phone_number=None))
        with pytest.raises(ConfigurationError, match="TWILIO_PHONE_NUMBER"):
            server.dial(CALLER)
        assert t.fake.calls == []
        assert server._switchboard.open == []
