"""Things that happen at the same time: a hang-up and a request, a verdict and an order, callbacks and what they are
about."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import pytest

from tests.town import CALLER, VOICE, Greeter, town
from voice_runtime.audio.frames import SILENCE_FRAME
from voice_runtime.events import Outcome, SayFinished
from voice_runtime.exceptions import CallHangupError, ConfigurationError, ProviderError
from voice_runtime.facts import CallOutcome, DialOutcome
from voice_runtime.mock.stt import MockStt
from voice_runtime.policy import CallPolicy
from voice_runtime.results import GatherResult
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio_settings import Faults, Timings
from voice_runtime.testing.phone import FakeCall, Phone, block_on
from voice_runtime.testing.speech import spoken
from voice_runtime.transports.mock_line import LineFaults

AGENT = "+358409999999"
OTHER = "+358408888888"
LONG = "welcome back this is a longer sentence of some ten words"


class TestTheCallerLeavesDuringAnOrder:
    """Its stream ends for a reason of its own."""

    def test_before_a_refused_transfer(self) -> None:
        """Nobody waits for the stream of a call that is over."""
        with town() as t:
            caught: list[CallHangupError] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.say("one moment")
                    try:
                        self.transfer(AGENT)
                    except CallHangupError as error:
                        caught.append(error)
                        raise

            def hangs_up(number: str) -> bool:
                t.fake.calls[0].hang_up()
                t.clock.sleep(0.3)
                return False

            server = t.serve(Flow, policy=CallPolicy(allowed_countries={"*"}, do_not_call=hangs_up))
            t.call().wait_ended(30)
            t.clock.sleep(10)
            assert [error.reason for error in caught] == ["caller_hung_up"]
            assert server.calls == []

    def test_while_a_guest_rings(self) -> None:
        """The guest's telephone stops, and its place under the caps is free."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.say("one moment")
                    self.conference(invite=AGENT)

            server = t.serve(Flow, policy=CallPolicy(allowed_countries={"*"}, concurrent_calls=1))
            t.fake.phones[AGENT] = Phone(ring_ms=10_000)
            call = t.call(script=lambda call: (call.sleep(5), call.hang_up()))
            call.wait_ended(30)
            assert t.fake.wait_for_call(to=AGENT).wait_ended(10) == "canceled"
            server.guard().admit_call(AGENT).release()


class TestGuests:
    """Callbacks of those who were invited."""

    def test_one_that_comes_when_the_call_is_back_disturbs_nothing(self) -> None:
        """The conference was ended by others, and the callbacks are late."""
        with town(faults=Faults(callback_delay_ms=1500)) as t:
            results: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.say("one moment")
                    results.append(self.conference(invite=AGENT))
                    results.append(self.say(LONG).outcome)

            t.serve(Flow)
            t.fake.phones[AGENT] = Phone(ring_ms=1000)
            call = t.call(script=lambda call: call.sleep(200))
            call.wait_streaming()
            t.clock.sleep(10)
            assert t.fake._loop is not None
            engine = t.fake._calls.conferences
            t.fake._loop.call_soon_threadsafe(engine.end, t.fake.conferences[0], "conference-ended-via-api")
            assert call.wait_ended(60) == "completed"
            assert results[0].outcome is DialOutcome.ANSWERED
            assert results[0].duration_s >= 9
            assert results[1] is Outcome.PLAYED

    def test_one_that_is_repeated_is_of_its_own_conference(self) -> None:
        """It does not end the next."""
        with town() as t:
            results: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    results.extend(self.conference(invite=number) for number in (AGENT, OTHER))

            t.serve(Flow)
            t.fake.phones[AGENT] = Phone(answer="busy")
            t.fake.phones[OTHER] = Phone(ring_ms=500, hang_up_after_s=60)
            call = t.call(script=lambda call: call.sleep(200))
            t.clock.sleep(12)
            told = next(
                entry
                for entry in t.fake.log.entries("callback")
                if "/guest/" in entry.text and entry.data["form"]["CallStatus"] == "busy"
            )
            form = list(told.data["form"].items())
            assert t.fake._loop is not None
            again = t.fake._exchange.webhooks.callback(told.data["url"], form, method="POST", sid=call.sid)
            block_on(again, t.fake._loop, t.clock)
            call.wait_ended(100)
            assert [result.outcome for result in results] == [DialOutcome.BUSY, DialOutcome.ANSWERED]
            assert results[1].duration_s > 55

    def test_whose_return_fails_once_is_tried_again(self) -> None:
        """The caller does not stay alone in the room."""
        with town() as t:
            results: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    results.append(self.conference(invite=AGENT))

            t.serve(Flow)
            t.fake.phones[AGENT] = Phone(ring_ms=500, hang_up_after_s=5)
            call = t.call(script=lambda call: call.sleep(200))
            t.clock.sleep(4)
            t.fake.faults.rest_503_before = 2
            assert call.wait_ended(30) == "completed"
            assert results[0].outcome is DialOutcome.ANSWERED

    @pytest.mark.parametrize(
        ("options", "changes"),
        [({"timeout": 700}, {}), ({}, {"twilio_phone_number": None}), ({"announce": "x" * 4500}, {})],
    )
    def test_options_that_cannot_be_used_move_nobody(self, options: dict[str, Any], changes: dict[str, Any]) -> None:
        """An error before anything is asked of Twilio."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    with pytest.raises(ConfigurationError):
                        self.conference(invite=AGENT, **options)
                    self.say("still here")

            server = t.serve(Flow, settings=t.settings(**changes))
            call = t.call()
            call.wait_ended(60)
            assert server.finished[0].error is None
            assert len(call.streams) == 1


class TestTwoThreads:
    """Each has its turn."""

    def test_a_transfer_and_keys_at_once(self) -> None:
        """One after the other, in whichever order: both happen, and both results are true."""
        with town() as t:
            results: dict[str, Any] = {}

            class Flow(VoiceSession):
                def run(self) -> None:
                    def transfer() -> None:
                        results["transfer"] = self.transfer(AGENT)

                    def keys() -> None:
                        self.send_digits("1")
                        results["keys"] = True

                    threads = [self.clock.start_thread(work, "order") for work in (transfer, keys)]
                    for thread in threads:
                        thread.join(300)

            server = t.serve(Flow)
            t.fake.phones[AGENT] = Phone(ring_ms=500, hang_up_after_s=90)
            call = t.call(script=lambda call: call.sleep(300))
            call.wait_ended(200)
            assert results["transfer"].outcome is DialOutcome.ANSWERED
            assert results["transfer"].duration_s == 90
            assert call.keys_heard == "1"
            server.finished[0].wait(5)
            assert server.finished[0].error is None


class TestMachines:
    """The verdict comes when it likes."""

    def machine(self, t: Any, flow: Any, **phone: Any) -> Any:
        server = t.serve(flow)
        t.fake.phones[CALLER] = Phone(
            **{"ring_ms": 500, "answered_by": "machine", "detection_ms": 3000, "hang_up_after_s": 60, **phone}
        )
        call = server.dial(CALLER, machine_detection="enable")
        assert call.wait(120)
        return call

    def test_nobody_is_put_through_to_a_machine(self) -> None:
        """The verdict meets the order to transfer: the agent's telephone stops, and the machine gets its message."""
        with town() as t:
            results: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.say("hello")
                    self.transfer(AGENT)

                def on_machine(self) -> None:
                    results.append(self.leave_message("please call us back"))

            def slow(number: str) -> bool:
                if number == AGENT:
                    t.clock.sleep(4)
                return False

            server = t.serve(Flow, policy=CallPolicy(allowed_countries={"*"}, do_not_call=slow))
            t.fake.phones[CALLER] = Phone(ring_ms=500, answered_by="machine", detection_ms=3000, hang_up_after_s=60)
            call = server.dial(CALLER, machine_detection="enable")
            assert call.wait(100)
            assert results[0].outcome is Outcome.PLAYED
            assert [leg.status for leg in t.fake.calls if leg.to == AGENT] == ["canceled"]

    def test_a_run_that_swallows_everything_gives_way_all_the_same(self) -> None:
        """Every further verb raises, and on_machine() runs."""
        with town() as t:
            said: list[str] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    for _ in range(5):
                        with contextlib.suppress(Exception):
                            self.say("hello is anybody there please answer me now")

                def on_machine(self) -> None:
                    said.append("on_machine")

            self.machine(t, Flow)
            assert said == ["on_machine"]

    def test_what_was_about_to_be_played_is_not(self) -> None:
        """The verdict comes between two verbs."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    t.clock.sleep(6)
                    self.play(b"\x21" * 80_000)

                def on_machine(self) -> None:
                    self.say("this is the message")

            self.machine(t, Flow)
            heard = t.fake.calls[0].heard.heard_ulaw()
            assert heard == VOICE.audio("this is the message")

    def test_what_the_machine_heard_of_run_is_known(self) -> None:
        """In the events and in the transcript, to the word."""
        with town() as t:
            partial: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    try:
                        self.say(f"{LONG} and {LONG}")
                    except Exception as error:
                        partial.append(error.partial)  # type: ignore[attr-defined]
                        raise

                def on_machine(self) -> None:
                    self.say("bye")

            call = self.machine(t, Flow)
            heard = t.fake.calls[0].heard.heard_ms() - len(VOICE.audio("bye")) / 8
            first = t.events.of(SayFinished)[0]
            assert first.outcome is Outcome.INTERRUPTED
            assert first.heard_ms == pytest.approx(heard, abs=40)
            assert call.transcript[0].text == partial[0].heard_text == first.heard_text != ""

    def test_run_that_is_through_before_the_verdict_waits_for_it(self) -> None:
        """A long greeting, taken for a person's answer: the message is left all the same."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> str:
                    self.say("hello")
                    return "a person"

                def on_machine(self) -> str:
                    self.leave_message("this is the message")
                    return "a machine"

            server = t.serve(Flow)
            greeting = spoken("hello this is the machine of nobody you know") * 4
            t.fake.phones[CALLER] = Phone(ring_ms=500, answered_by="machine", greeting=greeting)
            call = server.dial(CALLER, machine_detection="message_end")
            assert call.wait(120)
            assert call.result == "a machine"
            assert VOICE.audio("this is the message") in t.fake.calls[0].message_left

    def test_a_pause_in_the_greeting_is_not_its_end(self) -> None:
        """The message is left again, behind the beep."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.sleep(60)

                def on_machine(self) -> None:
                    self.leave_message("one two three four five six")

            greeting = (
                spoken("you have reached the office of somebody")
                + SILENCE_FRAME * 150
                + spoken("please leave your message after the tone thank you very much")
            )
            self.machine(t, Flow, greeting=greeting, detection_ms=1500, hang_up_after_s=None)
            assert VOICE.audio("one two three four five six") in t.fake.calls[0].message_left


class TestEnding:
    """Wherever the call is."""

    def test_hang_up_while_it_rings(self) -> None:
        """By the session: the telephone stops."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=20_000)
            call = server.dial(CALLER)
            t.clock.sleep(2)
            call.session.hang_up()
            assert t.fake.calls[0].wait_ended(5) == "canceled"

    def test_between_answer_and_stream(self) -> None:
        """It was answered; nothing that comes later says otherwise."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=500)
            call = server.dial(CALLER)
            t.clock.sleep(1.0)
            assert call.status == "in-progress"
            call.hang_up()
            assert call.wait(5)
            t.clock.sleep(5)
            assert (call.outcome, call.failure, call.ended_reason) == (CallOutcome.ANSWERED, None, "cut")

    def test_a_goodbye_is_none_the_worse_for_a_failing_api(self, caplog: pytest.LogCaptureFixture) -> None:
        """run() is through while the stream is away: asked again, and no apology."""
        with town(faults=Faults(line=LineFaults(drop_after_ms=2000))) as t:

            class Flow(VoiceSession):
                def run(self) -> str:
                    self.say("hello and goodbye")
                    while self.live.leg is not None:
                        t.clock.sleep(0.01)
                    t.fake.faults.line = LineFaults()
                    t.fake.faults.rest_503_before = 3
                    return "all done"

            server = t.serve(Flow)
            call = t.call(script=lambda call: call.sleep(100))
            assert call.wait_ended(30) == "completed"
            t.clock.sleep(5)
            assert (server.finished[0].result, server.finished[0].error) == ("all done", None)
            assert call.said == []
            caplog.clear()

    def test_a_flow_that_cannot_be_started_is_no_silent_line(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No thread can be had: the call ends."""
        with town() as t:
            t.serve(Greeter)
            start = t.clock.start_thread

            def no_more(target: Any, name: str) -> Any:
                if name.startswith("call CA"):
                    raise RuntimeError("can't start new thread")
                return start(target, name)

            monkeypatch.setattr(t.clock, "start_thread", no_more)
            assert t.call().wait_ended(10) == "completed"
            assert "cannot be run" in caplog.text
            caplog.clear()

    def test_music_does_not_outlast_run(self) -> None:
        """hold() without ``with``."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.hold(b"\x21" * 8 * 300_000)
                    self.sleep(2)

            t.serve(Flow)
            call = t.call(script=lambda call: call.sleep(1000))
            call.wait_ended(10)
            assert call.heard.heard_ms() < 2500


class TestQueued:
    """Twilio places one call a second, whoever asks for more."""

    def test_calls_that_wait_in_the_queue_are_not_given_up(self) -> None:
        """Two minutes of it: everybody is called and greeted."""
        with town(timings=Timings(calls_per_second=1)) as t:
            server = t.serve(Greeter)
            calls = []
            for number in range(100):
                t.fake.phones[f"+35840100{number:04d}"] = Phone(ring_ms=500)
                calls.append(server.dial(f"+35840100{number:04d}", timeout=20))
            assert all(call.wait(400) for call in calls)
            assert Counter(call.outcome for call in calls) == {CallOutcome.ANSWERED: 100}


class TestGather:
    """Keys are enough."""

    def test_a_recogniser_that_fails_takes_no_keys_away(self, caplog: pytest.LogCaptureFixture) -> None:
        """Only when none comes either, its failure is the answer."""

        class Deaf(MockStt):
            async def start(self, inbound_queue: Any) -> None:
                raise ProviderError("auth", "bad key")

        with town() as t:
            results: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.say("welcome")
                    results.append(self.gather("your number please", digits=2, speech=True))
                    with pytest.raises(ProviderError):
                        self.gather("and now", digits=2, speech=True, timeout=2, attempts=1)

            server = t.serve(Flow, stt=Deaf)
            call = t.call(script=lambda call: (call.sleep(4), call.press("12"), call.sleep(100)))
            call.wait_ended(100)
            assert server.finished[0].error is None
            assert results[0].digits == "12"
            caplog.clear()

    def test_a_habitual_terminator_belongs_to_the_entry_before(self) -> None:
        """Many people end every entry with it; later it is a key like any other."""
        with town() as t:
            results: list[GatherResult] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    results.append(self.gather(digits=4, timeout=10))
                    results.append(self.gather("and again please", digits=2, timeout=10))
                    results.append(self.gather(timeout=10, attempts=1))

            t.serve(Flow)

            def person(call: FakeCall) -> None:
                call.press("4711#")
                call.sleep(4)
                call.press("12")
                call.sleep(5)
                call.press("#")

            call = t.call(script=person)
            call.wait_ended(60)
            assert [r.digits for r in results] == ["4711", "12", ""]
            assert results[2].terminated
            assert VOICE.audio("and again please") in call.heard.heard_ulaw()


def test_any_label_may_be_a_mark() -> None:
    """Also one that the timeline might use itself, over a dropped socket."""
    with town(faults=Faults(line=LineFaults(drop_after_ms=1500))) as t:
        outcomes: list[Outcome] = []

        class Flow(VoiceSession):
            def run(self) -> None:
                t.fake.faults.line = LineFaults()
                self.put_outbound_sync(b"\x21" * 16_000)
                outcomes.append(self.send_mark_and_wait("at", timeout=10))

        t.serve(Flow)
        t.call().wait_ended(30)
        assert outcomes == [Outcome.PLAYED]


def test_many_pauses_between_keys_are_waited_for() -> None:
    """Eighty seconds of them: the call is back afterwards."""
    with town() as t:
        done: list[str] = []

        class Flow(VoiceSession):
            def run(self) -> None:
                self.send_digits("W" * 80)
                done.append("back")

        t.serve(Flow)
        t.call(script=lambda call: call.sleep(200)).wait_ended(200)
        assert done == ["back"]


def test_a_reply_is_a_message_like_any_other(caplog: pytest.LogCaptureFixture) -> None:
    """Who must not be written to gets no answer either, and the handler's words are not lost without a line."""
    with town() as t:
        t.serve(Greeter, settings=t.settings(voice_allowed_countries="FI"), on_sms=lambda message: "hello")
        t.fake.add_number("+15005550006", sms_url="https://voice.example.com/sms")
        for sender in (CALLER, "+46701234567"):
            t.fake.send_message(to="+15005550006", from_=sender, body="hi")
        assert [message.to for message in t.fake.messages if message.direction == "outbound-reply"] == [CALLER]
        assert "is not answered" in caplog.text
        assert "+46701234567" not in caplog.text
        caplog.clear()


def test_an_invitation_whose_callback_overtakes_its_failure_is_no_miss() -> None:
    """Twilio answers late, and the guest rings already."""
    with town(faults=Faults(early_callback=True)) as t:
        results: list[Any] = []

        class Flow(VoiceSession):
            def run(self) -> None:
                self.say("one moment")
                results.append(self.conference(invite=AGENT))

        class Second(Faults):
            """The second POST is carried out, and answered 500."""

            posts = 0

            def take(self, name: str) -> bool:
                if name != "rest_500_after":
                    return super().take(name)
                self.posts += 1
                return self.posts == 2

        t.serve(Flow)
        t.fake.faults = Second(early_callback=True)
        t.fake.phones[AGENT] = Phone(ring_ms=2000, hang_up_after_s=6)
        t.call(script=lambda call: call.sleep(200)).wait_ended(60)
        assert results[0].outcome is DialOutcome.ANSWERED
        assert results[0].duration_s >= 8


def test_refused_calls_use_nothing_up() -> None:
    """A cap counts what was placed."""
    from voice_runtime.exceptions import PolicyError, RestError
    from voice_runtime.transports.twilio_call import initiate_outbound_call

    with town() as t:
        settings = t.settings(voice_calls_per_day=2, voice_allowed_countries="*")
        t.fake.allowed_countries = {"US"}
        for _ in range(4):
            with pytest.raises(RestError):
                initiate_outbound_call(CALLER, settings=settings)
        t.fake.allowed_countries = None
        for _ in range(2):
            initiate_outbound_call(CALLER, settings=settings)
        with pytest.raises(PolicyError, match="calls_per_day"):
            initiate_outbound_call(CALLER, settings=settings)
