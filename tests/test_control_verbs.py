"""Verbs that take the call away from its stream and bring it back: keys, transfers, conferences, and hold."""

from __future__ import annotations

from typing import Any

import pytest

from tests.town import VOICE, Town, town
from voice_runtime.events import CallerHeard, LegStarted
from voice_runtime.exceptions import CallHangupError, ConfigurationError, PolicyError
from voice_runtime.facts import DialOutcome
from voice_runtime.results import TransferResult
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio_settings import Faults, Timings
from voice_runtime.testing.phone import FakeCall, Phone

AGENT = "+358409999999"


def run_flow(t: Town, run: Any, *, script: Any = None, timeout: float = 120) -> tuple[FakeCall, Any]:
    """A call to a flow whose run() is this function; the call, and the flow's side of it."""

    class Flow(VoiceSession):
        def run(self) -> Any:
            return run(self)

    server = t.serve(Flow)
    call = t.call(script=script) if script is not None else t.call()
    call.wait_ended(timeout)
    for _ in range(300):  # a call that is away is asked for only now and then
        if server.finished:
            break
        t.clock.sleep(0.1)
    flow = server.finished[-1]
    flow.wait(10)
    if flow.error is not None:
        raise flow.error
    return call, flow


class TestSendDigits:
    """Keys to the far end, through the TwiML."""

    def test_the_flow_goes_on_at_its_next_line(self) -> None:
        """Same session, same recogniser, same history, a new stream; the far end has the keys."""
        with town() as t:
            facts: list[Any] = []

            def run(self: VoiceSession) -> str:
                self.say("one moment")
                recogniser = self.stt
                self.send_digits("1w2#")
                facts.append((self.stt is recogniser, len(self.live.transcript)))
                self.say("and now we go on")
                return "done"

            call, flow = run_flow(t, run)
            assert flow.result == "done"
            assert call.keys_heard == "12#"
            assert facts == [(True, 1)]
            assert call.heard.heard_ulaw() == VOICE.audio("one moment") + VOICE.audio("and now we go on")
            assert len(call.streams) == 2
            assert len({stream.sid for stream in call.streams}) == 2
            assert call.outcome == "completed"

    def test_what_was_being_said_is_heard_before(self) -> None:
        """Nothing queued is lost to the seam."""
        with town() as t:

            def run(self: VoiceSession) -> None:
                self.put_outbound_sync(b"\x21" * 8000)
                self.send_digits("5")

            call, _ = run_flow(t, run)
            assert call.heard.heard_ulaw() == b"\x21" * 8000

    def test_the_recogniser_hears_on(self) -> None:
        """What is said on the second stream reaches the same recogniser, on one time line."""
        with town() as t:

            def run(self: VoiceSession) -> str:
                self.listen(timeout=1)
                self.send_digits("1")
                before = self.live.now_ms()
                t.clock.sleep(1)
                assert self.live.now_ms() >= before + 990

                def speak() -> None:
                    t.clock.sleep(1)
                    self.stt.inject("still here")  # type: ignore[union-attr]

                t.clock.start_thread(speak, "caller")
                return self.listen(timeout=5).text

            _, flow = run_flow(t, run)
            assert flow.result == "still here"
            said = t.events.of(CallerHeard)[0]
            legs = t.events.of(LegStarted)
            assert said.at_ms > legs[1].at_ms > legs[0].at_ms

    def test_a_caller_who_hangs_up_meanwhile_is_noticed(self) -> None:
        """Nobody tells of it: it is asked for."""
        with town() as t:
            caught: list[CallHangupError] = []

            def run(self: VoiceSession) -> None:
                self.say("hello there")
                try:
                    self.send_digits("WWWWW")
                except CallHangupError as error:
                    caught.append(error)

            call, _ = run_flow(t, run, script=lambda call: (call.sleep(2), call.hang_up()))
            assert call.outcome == "completed"
            assert caught[0].reason == "caller_hung_up"

    @pytest.mark.parametrize("digits", ["", "12x", "１", "1;2", '1"/><Redirect>'])
    def test_only_keys_are_keys(self, digits: str) -> None:
        """Anything else never reaches the TwiML."""
        with pytest.raises(ValueError, match="expected keys of 0-9"):
            VoiceSession().send_digits(digits)

    def test_a_refusal_leaves_the_call_where_it_is(self) -> None:
        """500 before the deed: RestError, and the stream goes on."""
        with town(faults=Faults(rest_503_before=0)) as t:
            from voice_runtime.exceptions import RestError

            def run(self: VoiceSession) -> str:
                t.fake.faults.rest_503_before = 1
                with pytest.raises(RestError):
                    self.send_digits("1")
                self.say("still on the line")
                return "fine"

            call, flow = run_flow(t, run)
            assert flow.result == "fine"
            assert call.heard.heard_ulaw() == VOICE.audio("still on the line")
            assert len(call.streams) == 1

    def test_an_answer_lost_after_the_deed_is_no_failure(self) -> None:
        """The stream goes, so it was done: no second request, and the flow goes on."""
        with town() as t:

            def run(self: VoiceSession) -> str:
                t.fake.faults.rest_500_after = 1
                self.send_digits("7")
                self.say("back again")
                return "fine"

            call, flow = run_flow(t, run)
            assert flow.result == "fine"
            assert call.keys_heard == "7"
            assert call.heard.heard_ulaw() == VOICE.audio("back again")


class TestTransfer:
    """The call with somebody else."""

    @pytest.mark.parametrize(
        ("phone", "outcome"),
        [
            ({"ring_ms": 500, "hang_up_after_s": 20}, DialOutcome.ANSWERED),
            ({"answer": "busy"}, DialOutcome.BUSY),
            ({"answer": "no-answer"}, DialOutcome.NO_ANSWER),
            ({"answer": "failed"}, DialOutcome.FAILED),
        ],
    )
    def test_the_result_says_what_became_of_it_and_the_flow_goes_on(
        self, phone: dict[str, Any], outcome: DialOutcome
    ) -> None:
        """Answered for twenty seconds, busy, not answered, not to be reached."""
        with town() as t:
            t.fake.phones[AGENT] = Phone(**phone)

            def run(self: VoiceSession) -> TransferResult:
                self.say("one moment please")
                result = self.transfer(AGENT, timeout=10)
                self.say("back with me")
                return result

            call, flow = run_flow(t, run)
            assert flow.result.outcome is outcome
            assert bool(flow.result) is (outcome is DialOutcome.ANSWERED)
            if flow.result:
                assert flow.result.duration_s == 20
            assert flow.result.call_sid.startswith("CA")
            assert call.heard.heard_ulaw().endswith(VOICE.audio("back with me"))

    def test_nobody_answering_has_words_or_a_function(self) -> None:
        """on_no_answer is said, or called with the result; never after an answer."""
        with town() as t:
            t.fake.phones[AGENT] = Phone(answer="busy")
            seen: list[TransferResult] = []

            def run(self: VoiceSession) -> None:
                self.transfer(AGENT, on_no_answer="sorry nobody there")
                self.transfer(AGENT, on_no_answer=seen.append)
                t.fake.phones[AGENT] = Phone(ring_ms=100, hang_up_after_s=3)
                self.transfer(AGENT, on_no_answer=seen.append)

            call, _ = run_flow(t, run)
            assert VOICE.audio("sorry nobody there") in call.heard.heard_ulaw()
            assert [result.outcome for result in seen] == [DialOutcome.BUSY]

    def test_who_answers_hears_the_announcement_first(self) -> None:
        """By Twilio's voice, before the two are joined."""
        with town() as t:
            t.fake.phones[AGENT] = Phone(ring_ms=100, hang_up_after_s=10)
            _, flow = run_flow(t, lambda self: self.transfer(AGENT, announce="A caller about <booking> & more"))
            leg = t.fake.call(flow.result.call_sid)
            assert leg.said == ["A caller about <booking> & more"]

    def test_the_caller_hanging_up_ends_the_call(self) -> None:
        """In the middle of the conversation; run() ends with CallHangupError."""
        with town() as t:
            t.fake.phones[AGENT] = Phone(ring_ms=100)
            call, flow = run_flow(
                t,
                lambda self: (self.say("one moment"), self.transfer(AGENT)),
                script=lambda call: (call.sleep(20), call.hang_up()),
            )
            assert flow.result is None
            assert flow.ended_reason in ("caller_hung_up", "completed")
            assert call.outcome == "completed"

    def test_the_first_of_several_to_answer_has_the_call(self) -> None:
        """The others stop ringing."""
        with town() as t:
            other = "+358408888888"
            t.fake.phones[AGENT] = Phone(ring_ms=20_000)
            t.fake.phones[other] = Phone(ring_ms=500, hang_up_after_s=5)
            _, flow = run_flow(t, lambda self: self.transfer([AGENT, other]))
            assert t.fake.call(flow.result.call_sid).to == other

    def test_a_number_that_must_not_be_called_is_refused_before_anything_happens(self) -> None:
        """The rule is named, and the stream is still up."""
        with town() as t:
            settings = t.settings(voice_allowed_countries="FI")

            class Flow(VoiceSession):
                def run(self) -> str:
                    with pytest.raises(PolicyError) as caught:
                        self.transfer("+442079460000")
                    self.say("still here")
                    return caught.value.rule

            server = t.serve(Flow, settings=settings)
            call = t.call()
            call.wait_ended()
            assert server.finished[-1].result == "allowed_countries"
            assert len(call.streams) == 1

    def test_call_hang_up_ends_a_call_that_is_away(self) -> None:
        """From another thread, while the two are talking."""
        with town() as t:
            t.fake.phones[AGENT] = Phone(ring_ms=100)

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.say("one moment")
                    self.transfer(AGENT)

            server = t.serve(Flow)
            call = t.call()
            call.wait_streaming()
            t.clock.sleep(10)
            server.calls[0].hang_up()
            assert call.wait_ended(5) == "completed"
            t.clock.sleep(5)
            assert server.calls == []

    def test_without_a_server_there_is_nobody_to_ask(self) -> None:
        """The error says what would have."""
        with pytest.raises(ConfigurationError, match="VoiceServer"):
            VoiceSession().transfer(AGENT)


class TestHold:
    """Music on the stream."""

    def test_music_round_after_round_until_the_block_ends(self) -> None:
        """Cut within a moment; what the caller pressed meanwhile is forgotten."""
        with town() as t:
            music = bytes(range(1, 101)) * 80  # one second

            def run(self: VoiceSession) -> None:
                with self.hold(music):
                    self.sleep(2.5)
                self.say("thank you for waiting")
                assert not self.gather(digits=1, timeout=0.5, attempts=1)

            call, _ = run_flow(t, run, script=lambda call: (call.sleep(1), call.press("9"), call.sleep(60)))
            heard = call.heard.heard_ulaw()
            assert heard[: len(music) * 2] == music * 2
            cut = len(heard) - len(VOICE.audio("thank you for waiting"))
            assert heard[cut:] == VOICE.audio("thank you for waiting")
            assert 2300 <= cut / 8 <= 2700

    def test_a_beep_now_and_then_without_music(self) -> None:
        """The line is not dead."""
        with town() as t:

            def run(self: VoiceSession) -> None:
                with self.hold():
                    self.sleep(2)

            call, _ = run_flow(t, run)
            assert len(set(call.heard.heard_ulaw())) > 50

    def test_it_ends_with_the_call(self) -> None:
        """No music for nobody."""
        with town() as t:

            def run(self: VoiceSession) -> None:
                self.hold()
                self.sleep(60)

            call, _ = run_flow(t, run, script=lambda call: (call.sleep(3), call.hang_up()))
            assert call.outcome == "completed"


class TestConference:
    """Several parties in one room."""

    def test_the_caller_and_an_agent_meet_and_the_flow_goes_on(self) -> None:
        """Both are in the room of that name; when it is over the call is back."""
        with town() as t:
            t.fake.phones[AGENT] = Phone(ring_ms=100, hang_up_after_s=15)

            def run(self: VoiceSession) -> Any:
                result = self.conference(invite=AGENT, announce="A caller waits")
                self.say("all done")
                return result

            call, flow = run_flow(t, run, script=lambda call: call.sleep(100))
            assert flow.result.room == f"call-{call.sid}"
            assert len(flow.result.invited) == 1
            assert t.fake.call(flow.result.invited[0]).to == AGENT
            assert call.heard.heard_ulaw().endswith(VOICE.audio("all done"))

    @pytest.mark.parametrize(
        ("phone", "outcome"),
        [({"answer": "busy"}, DialOutcome.BUSY), ({"answer": "no-answer"}, DialOutcome.NO_ANSWER)],
    )
    def test_a_guest_who_does_not_come_leaves_nobody_waiting(
        self, phone: dict[str, Any], outcome: DialOutcome
    ) -> None:
        """The call is back as soon as that is known, and the result says why."""
        with town() as t:
            t.fake.phones[AGENT] = Phone(**phone)

            def run(self: VoiceSession) -> Any:
                result = self.conference(invite=AGENT, timeout=10)
                self.say("nobody came")
                return result

            call, flow = run_flow(t, run, script=lambda call: call.sleep(100))
            assert flow.result.outcome is outcome
            assert not flow.result
            assert call.heard.heard_ulaw().endswith(VOICE.audio("nobody came"))

    def test_it_lasts_until_the_last_guest_has_left(self) -> None:
        """One of three never comes, one leaves early."""
        with town(timings=Timings(calls_per_second=100)) as t:
            for number, phone in {
                "+358401000001": Phone(ring_ms=100, hang_up_after_s=5),
                "+358401000002": Phone(answer="busy"),
                "+358401000003": Phone(ring_ms=100, hang_up_after_s=30),
            }.items():
                t.fake.phones[number] = phone
            at: list[float] = []

            def run(self: VoiceSession) -> Any:
                guests = ["+358401000001", "+358401000002", "+358401000003"]
                begin = self.clock.monotonic()
                result = self.conference("meeting", invite=guests)
                at.append(self.clock.monotonic() - begin)
                return result

            _, flow = run_flow(t, run, script=lambda call: call.sleep(100))
            assert flow.result.outcome is DialOutcome.ANSWERED
            assert len(flow.result.invited) == 3
            assert 30 < at[0] < 35

    def test_a_guest_who_must_not_be_called_keeps_everybody_out(self) -> None:
        """Refused before any request; the call stays on its stream."""
        with town() as t:
            settings = t.settings(voice_allowed_countries="FI")

            class Flow(VoiceSession):
                def run(self) -> str:
                    with pytest.raises(PolicyError) as caught:
                        self.conference(invite=[AGENT, "+442079460000"])
                    return caught.value.rule

            server = t.serve(Flow, settings=settings)
            call = t.call()
            call.wait_ended()
            assert server.finished[-1].result == "allowed_countries"
            assert len(t.fake.calls) == 1

    def test_a_guest_whom_twilio_refuses_did_not_come(self, caplog: pytest.LogCaptureFixture) -> None:
        """The caller is not left alone with the music."""
        with town() as t:
            t.fake.allowed_countries = {"US"}
            _, flow = run_flow(t, lambda self: self.conference(invite=AGENT), script=lambda call: call.sleep(100))
            assert flow.result.outcome is DialOutcome.FAILED
            assert flow.result.invited == ()
            assert AGENT not in caplog.text
            caplog.clear()

    def test_the_caller_leaving_ends_the_call(self) -> None:
        """From within the conference."""
        with town() as t:
            t.fake.phones[AGENT] = Phone(ring_ms=100, hang_up_after_s=60)
            call, flow = run_flow(
                t,
                lambda self: (self.say("one moment"), self.conference(invite=AGENT)),
                script=lambda call: (call.sleep(20), call.hang_up()),
            )
            assert call.outcome == "completed"
            assert flow.result is None
            guest = t.fake.wait_for_call(to=AGENT)
            guest.wait_ended(5)  # not left alone with the music


class TestRecording:
    """A recording that Twilio makes."""

    def test_started_paused_resumed_and_stopped(self) -> None:
        """What was said during the pause is not in it."""
        with town() as t:

            def run(self: VoiceSession) -> None:
                recording = self.start_recording()
                assert recording.recording_sid.startswith("RE")
                self.say("before the pause")
                assert recording.pause()
                self.say("a card number")
                assert recording.resume()
                self.say("behind the pause")
                assert recording.stop()
                assert not recording.stop()

            run_flow(t, run)
            record = t.fake.recordings[0]
            heard = bytes(record.outbound)
            assert VOICE.audio("a card number") not in heard
            for words in ("before the pause", "behind the pause"):
                assert VOICE.audio(words)[:4000] in heard
