"""Everything that can go wrong on Twilio's side, one test each: what the caller hears, and what the flow learns.

The catalogue is that of ``Faults`` and ``LineFaults``; every fault strikes a whole call through a server.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.town import CALLER, NUMBER, VOICE, Greeter, Sleeper, town
from voice_runtime.events import LegEnded, LegStarted, Outcome, SayFinished
from voice_runtime.exceptions import CallHangupError, CallNotAnsweredError, RestError
from voice_runtime.facts import CallOutcome
from voice_runtime.flow import APOLOGY
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio_settings import Faults, Timings
from voice_runtime.testing.phone import Phone
from voice_runtime.transports.mock_line import LineFaults

GREETING = VOICE.audio("hello and goodbye")
LONG = "this is a longer sentence of ten words in all"


class Speaker(VoiceSession):
    def run(self) -> Any:
        return self.say(LONG)


class TestRest:
    """Requests that go wrong; a call is never placed twice."""

    def test_429_is_tried_again_until_it_is_taken(self) -> None:
        """Twilio has not processed it: one call in the end."""
        with town(faults=Faults(rest_429=2, retry_after_s=1)) as t:
            server = t.serve(Greeter)
            call = server.dial(CALLER)
            assert call.wait(60)
            assert call.outcome is CallOutcome.ANSWERED
            assert len(t.fake.calls) == 1

    def test_429_for_ever_is_an_error(self) -> None:
        """After some attempts; nothing was placed, and the error says so."""
        with town(faults=Faults(rest_429=100)) as t:
            server = t.serve(Greeter)
            with pytest.raises(RestError) as caught:
                server.dial(CALLER)
            assert (caught.value.status, caught.value.maybe_done) == (429, False)
            assert t.fake.calls == []

    def test_503_before_the_deed_is_an_error_after_a_look_for_the_call(self) -> None:
        """Nobody knows whether it was placed; no callback came, so it was not, and it is not tried again."""
        with town(faults=Faults(rest_503_before=1)) as t:
            server = t.serve(Greeter)
            with pytest.raises(RestError) as caught:
                server.dial(CALLER)
            assert caught.value.maybe_done
            assert t.fake.calls == []
            t.clock.sleep(1)
            assert server.dial(CALLER).wait(60)
            assert len(t.fake.calls) == 1

    def test_the_hang_up_survives_a_failing_api(self, caplog: pytest.LogCaptureFixture) -> None:
        """REST answers 500: the stream is closed instead, and the document behind it hangs up."""
        with town() as t:

            class Flow(Greeter):
                def run(self) -> str:
                    t.fake.faults.rest_503_before = 10
                    return super().run()

            t.serve(Flow)
            call = t.call()
            assert call.wait_ended(30) == "completed"
            assert call.heard.heard_ulaw() == GREETING
            assert "could not be ended through the REST API" in caplog.text
            caplog.clear()


class TestWebhooks:
    """Requests that do not get through."""

    @pytest.mark.parametrize("fault", ["webhook_502", "webhook_timeout", "webhook_refused"])
    def test_a_webhook_that_fails_ends_that_call_and_no_other(self, fault: str) -> None:
        """Twilio plays its own prompt; the next call is served."""
        with town() as t:
            server = t.serve(Greeter)
            setattr(t.fake.faults, fault, 2)
            call = t.call()
            call.wait_ended(60)
            assert call.heard.heard_bytes() == 0
            setattr(t.fake.faults, fault, 0)
            again = t.call()
            assert again.wait_ended() == "completed"
            assert again.heard.heard_ulaw() == GREETING
            assert server.calls == []

    @pytest.mark.parametrize("fault", ["webhook_502", "webhook_timeout"])
    def test_a_call_that_cannot_be_brought_back_is_over(self, fault: str) -> None:
        """The request after the digits fails: the verb ends with the call."""
        with town() as t:
            caught: list[CallHangupError] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.say("one moment")
                    setattr(t.fake.faults, fault, 2)
                    try:
                        self.send_digits("1")
                    except CallHangupError as error:
                        caught.append(error)
                        raise

            server = t.serve(Flow)
            call = t.call()
            call.wait_ended(60)
            t.clock.sleep(40)
            assert len(caught) == 1
            assert server.calls == []

    @pytest.mark.parametrize("how", ["duplicate_callbacks", "reorder_callbacks", "early_callback"])
    def test_callbacks_twice_in_another_order_or_early_change_nothing(self, how: str) -> None:
        """The outcome is the same, and the call is run once."""
        for answer, outcome in (("answer", "answered"), ("busy", "busy"), ("no-answer", "no-answer")):
            with town() as t:
                setattr(t.fake.faults, how, True)
                runs: list[str] = []

                class Flow(Greeter):
                    def run(self, runs: list[str] = runs) -> str:
                        runs.append(self.call_sid or "")
                        return super().run()

                server = t.serve(Flow)
                t.fake.phones[CALLER] = Phone(ring_ms=500, answer=answer)  # type: ignore[arg-type]
                call = server.dial(CALLER, timeout=5)
                assert call.wait(60)
                t.clock.sleep(5)
                assert call.outcome == outcome
                assert len(runs) == (1 if answer == "answer" else 0)

    def test_callbacks_that_never_come_leave_nothing_hanging(self, caplog: pytest.LogCaptureFixture) -> None:
        """A busy call of which nobody tells is given up after its ringing time and a minute."""
        with town(faults=Faults(drop_callbacks=True)) as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(answer="busy")
            call = server.dial(CALLER, timeout=20)
            with pytest.raises(CallNotAnsweredError):
                call.wait_answered(200)
            assert call.outcome is CallOutcome.FAILED
            assert call.failure is not None
            caplog.clear()

    def test_an_anonymous_caller_is_served(self) -> None:
        """``anonymous`` is a caller like any other."""
        with town(faults=Faults(anonymous_caller=True)) as t:
            server = t.serve(Greeter)
            t.call().wait_ended()
            server.finished[-1].wait(5)
            assert server.finished[-1].result == f"anonymous called {NUMBER}, inbound"


class TestStreams:
    """Sockets that do not come, break, or misbehave."""

    @pytest.mark.parametrize("fault", ["socket_refused", "handshake_403"])
    def test_a_stream_that_does_not_come_up_is_tried_again(self, fault: str) -> None:
        """Twilio asks what next, and gets another stream: the caller waits a second and is greeted."""
        with town() as t:
            t.serve(Greeter)
            setattr(t.fake.faults, fault, 2)
            call = t.call()
            assert call.wait_ended(60) == "completed"
            assert call.heard.heard_ulaw() == GREETING

    @pytest.mark.parametrize("fault", ["socket_refused", "handshake_403"])
    def test_a_stream_that_never_comes_up_is_apologised_for(
        self, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """By Twilio's own voice; nothing stays behind."""
        with town() as t:
            server = t.serve(Greeter)
            setattr(t.fake.faults, fault, 100)
            call = t.call()
            assert call.wait_ended(60) == "completed"
            assert call.said == [APOLOGY]
            assert server.calls == []
            assert server.finished[-1].outcome is CallOutcome.FAILED
            assert "giving up" in caplog.text
            caplog.clear()

    @pytest.mark.parametrize("at_ms", [300, 1370, 2500])
    def test_a_socket_that_drops_in_the_middle_of_a_sentence(self, at_ms: float) -> None:
        """The same session goes on over the next stream, where the caller's ear was: nothing twice, nothing lost."""
        with town(faults=Faults(line=LineFaults(drop_after_ms=at_ms))) as t:

            class Flow(Speaker):
                def run(self) -> Any:
                    t.fake.faults.line = LineFaults()
                    return super().run()

            server = t.serve(Flow)
            call = t.call()
            assert call.wait_ended(60) == "completed"
            flow = server.finished[-1]
            flow.wait(5)
            assert flow.error is None
            assert flow.result.outcome is Outcome.PLAYED
            assert len(call.streams) == 2
            heard, said = call.heard.heard_ulaw(), VOICE.audio(LONG)
            assert abs(len(heard) - len(said)) <= 40 * 8
            assert t.events.of(LegEnded)[0].reason == "stream_lost"
            assert len(t.events.of(LegStarted)) == 2

    def test_a_caller_who_is_gone_with_the_socket_is_noticed_at_once(self) -> None:
        """No ``stop``, the socket just closes: Twilio is asked, and says that the call is over."""
        with town(faults=Faults(line=LineFaults(no_stop=True))) as t:
            ended: list[float] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    try:
                        self.sleep(600)
                    finally:
                        ended.append(self.clock.monotonic())

            server = t.serve(Flow)
            call = t.call(script=lambda call: (call.sleep(2), call.hang_up()))
            call.wait_ended()
            at = t.clock.monotonic()
            t.clock.sleep(2)
            assert ended[0] - at < 0.5
            assert server.finished[-1].ended_reason == "caller_hung_up"

    def test_a_stream_that_never_starts_is_closed_and_tried_again(self, caplog: pytest.LogCaptureFixture) -> None:
        """Only ``connected`` comes: after five seconds the socket is closed, and Twilio asks what next."""
        with town(faults=Faults(line=LineFaults(never_start=True))) as t:
            t.serve(Greeter)
            call = t.call()
            t.clock.sleep(3)
            t.fake.faults.line = LineFaults()
            assert call.wait_ended(60) == "completed"
            assert call.heard.heard_ulaw() == GREETING
            caplog.clear()

    @pytest.mark.parametrize(
        "line",
        [
            LineFaults(stop_twice=True),
            LineFaults(media_after_stop=5),
            LineFaults(numbers_as_numbers=True),
            LineFaults(unknown_event=True),
            LineFaults(clock_drift_ppm=100),
            LineFaults(clock_drift_ppm=-100),
            LineFaults(gaps=((200, 400), (900, 100))),
            LineFaults(lose_every=7),
            LineFaults(close_code=1006),
            LineFaults(jitter_ms=80, latency_to_app_ms=100, latency_from_app_ms=100),
        ],
    )
    def test_lines_that_misbehave_disturb_no_greeting(self, line: LineFaults) -> None:
        """Heard whole, to the sample, and proven."""
        with town(faults=Faults(line=line)) as t:
            t.serve(Greeter)
            call = t.call()
            assert call.wait_ended(60) == "completed"
            assert call.heard.heard_ulaw() == GREETING
            said = t.events.of(SayFinished)[0]
            assert said.outcome is Outcome.PLAYED

    def test_marks_that_are_lost_make_it_unconfirmed(self) -> None:
        """Nothing hangs for them: the audio's own length, and a little more."""
        with town(faults=Faults(line=LineFaults(marks_lost=True))) as t:
            server = t.serve(Speaker)
            call = t.call()
            call.wait_ended(60)
            flow = server.finished[-1]
            flow.wait(5)
            assert flow.result.outcome is Outcome.UNCONFIRMED
            assert call.heard.heard_ulaw() == VOICE.audio(LONG)

    def test_marks_that_are_late_are_waited_for(self) -> None:
        """Two seconds: the sentence was heard whole, and the hang-up comes after it."""
        with town(faults=Faults(line=LineFaults(mark_delay_ms=2000))) as t:
            server = t.serve(Speaker)
            call = t.call()
            call.wait_ended(60)
            server.finished[-1].wait(5)
            assert server.finished[-1].result.outcome is Outcome.PLAYED
            assert call.heard.heard_ulaw() == VOICE.audio(LONG)

    def test_a_clear_that_is_ignored_does_not_hang_the_flow(self) -> None:
        """What is reported as heard is less than was; the flow goes on all the same."""
        with town(faults=Faults(line=LineFaults(clear_ignored=True))) as t:
            results: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    def cut() -> None:
                        self.clock.sleep(1)
                        self.clear()

                    self.clock.start_thread(cut, "cut")
                    results.append(self.say(LONG))

            t.serve(Flow)
            call = t.call()
            assert call.wait_ended(60) == "completed"
            assert results[0].outcome is Outcome.INTERRUPTED

    def test_parameters_nobody_asked_for_are_parameters(self) -> None:
        """Long, and in any script."""
        odd = {"näme": "値" * 200, "emoji": "☎️", "empty": "", "quote": "\"<&>'"}
        with town(faults=Faults(extra_parameters=odd)) as t:
            seen: list[dict[str, str]] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    seen.append(self.parameters)

            t.serve(Flow)
            t.call().wait_ended()
            assert seen == [odd]

    def test_an_app_that_does_not_read_loses_audio_not_the_call(self) -> None:
        """31930 is Twilio's warning for it; here the loop reads on, so there is none."""
        with town(faults=Faults(line=LineFaults(stalls=((500, 1500),)))) as t:
            t.serve(Greeter)
            call = t.call()
            assert call.wait_ended(60) == "completed"
            assert 31930 not in t.fake.warnings(call)


class TestOutcomes:
    """How a dialled call ends, as a value."""

    @pytest.mark.parametrize(
        ("phone", "outcome", "sip_code"),
        [
            ({"answer": "busy"}, CallOutcome.BUSY, None),
            ({"answer": "no-answer"}, CallOutcome.NO_ANSWER, None),
            ({"answer": "reject"}, CallOutcome.REJECTED, None),
            ({"answer": "failed"}, CallOutcome.FAILED, 404),
        ],
    )
    def test_not_answered(self, phone: dict[str, Any], outcome: CallOutcome, sip_code: int | None) -> None:
        """wait_answered() raises what call.outcome says; a failure has its code and a sentence."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(**phone)
            call = server.dial(CALLER, timeout=5)
            with pytest.raises(CallNotAnsweredError) as caught:
                call.wait_answered()
            assert caught.value.outcome is outcome is call.outcome
            if sip_code is not None:
                assert caught.value.failure is not None
                assert caught.value.failure.sip_code == sip_code
                assert "SIP 404" in str(caught.value)
            assert call.wait(5)

    def test_canceled(self) -> None:
        """By us, while it rings."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=20_000)
            call = server.dial(CALLER)
            t.clock.sleep(2)
            call.hang_up()
            assert call.outcome is CallOutcome.CANCELED
            assert t.fake.wait_for_call(to=CALLER).wait_ended(5) == "canceled"

    @pytest.mark.parametrize(
        ("found", "outcome"),
        [
            ("human", CallOutcome.ANSWERED),
            ("unknown", CallOutcome.ANSWERED),
            ("fax", CallOutcome.FAX),
            ("machine", CallOutcome.MACHINE),
        ],
    )
    def test_what_answered(self, found: Any, outcome: CallOutcome) -> None:
        """As machine detection has it; what it does not know is a person."""
        with town() as t:
            server = t.serve(Sleeper)
            t.fake.phones[CALLER] = Phone(ring_ms=500, answered_by=found, detection_ms=2000, hang_up_after_s=20)
            call = server.dial(CALLER, machine_detection="enable")
            assert call.wait(60)
            assert call.outcome is outcome

    def test_a_region_has_its_own_credentials(self) -> None:
        """The call is placed, redirected and ended there; its webhooks are signed with that region's token."""
        from voice_runtime.testing.fake_twilio import FakeTwilio

        with town() as t, FakeTwilio(clock=t.clock, timings=Timings()) as ireland:
            regions = {
                "ie1": {
                    "edge": "dublin",
                    "account_sid": ireland.account_sid,
                    "auth_token": ireland.auth_token,
                    "api_base_url": ireland.api_base_url,
                }
            }
            server = t.serve(Greeter, settings=t.settings(twilio_regions=regions))
            ireland.mount("voice.example.com", server.app)
            ireland.add_number(NUMBER)
            call = server.dial(CALLER, region="ie1")
            assert call.wait(60)
            assert call.outcome is CallOutcome.ANSWERED
            assert t.fake.calls == []
            assert ireland.calls[0].heard.heard_ulaw() == GREETING
