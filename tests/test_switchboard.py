"""Every call of a server, from the moment it is expected until nothing is left of it."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_webhooks import VECTORS, Twilio, fields, voice
from tests.town import CALLER, NUMBER, VOICE, Greeter, Sleeper, Town, town
from voice_runtime.exceptions import ConfigurationError, RestError
from voice_runtime.facts import CallFacts, CallOutcome
from voice_runtime.flow import Call
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession
from voice_runtime.switchboard import Flow, Refusal, busy, reject, session_for
from voice_runtime.testing.fake_twilio_settings import Faults, Timings
from voice_runtime.testing.phone import FakeCall, Phone, block_on
from voice_runtime.transports.mock_line import LineEnd, MediaLine
from voice_runtime.transports.mock_wire import ConnectFailure
from voice_runtime.transports.twilio_signature import sign

OTHER = "+15005550009"
INBOUND = CallFacts(called=NUMBER, caller=CALLER, direction="inbound")
OUTBOUND = CallFacts(called=CALLER, caller=NUMBER, direction="outbound-api")


def empty(server: VoiceServer) -> tuple[int, int, int]:
    """The calls that are up, those that are expected, and the tokens that are good."""
    return len(server.calls), len(server._switchboard), len(server._switchboard.tokens)


def snap(t: Town, call: FakeCall) -> None:
    """The connection of the call's stream breaks."""
    assert t.fake._loop is not None
    t.fake._loop.call_soon_threadsafe(call.streams[-1].line._wire.abort)


class TestWhoseFlow:
    """A class, a function, one for each number."""

    def test_a_class_makes_a_session_for_each_call(self) -> None:
        """Never the same twice."""
        first, second = session_for(Greeter, INBOUND), session_for(Greeter, INBOUND)
        assert type(first) is type(second) is Greeter
        assert first is not second

    @pytest.mark.parametrize(
        ("chosen", "kind"),
        [(Greeter, Greeter), (Greeter(), Greeter), (reject(), Refusal), (busy(), Refusal)],
    )
    def test_a_function_is_given_the_facts_and_chooses(self, chosen: Any, kind: type) -> None:
        """A class, a session, or nobody."""
        seen: list[CallFacts] = []

        def choose(facts: CallFacts) -> Any:
            seen.append(facts)
            return chosen

        assert type(session_for(choose, INBOUND)) is kind
        assert seen == [INBOUND]

    @pytest.mark.parametrize(
        ("facts", "flows", "kind"),
        [
            (INBOUND, {NUMBER: Greeter, "*": Sleeper}, Greeter),
            (INBOUND, {OTHER: Greeter, "*": Sleeper}, Sleeper),
            (INBOUND, {CALLER: Greeter, "*": Sleeper}, Sleeper),
            (OUTBOUND, {NUMBER: Greeter, "*": Sleeper}, Greeter),
            (OUTBOUND, {CALLER: Greeter, "*": Sleeper}, Sleeper),
            (INBOUND, {NUMBER: lambda facts: busy()}, Refusal),
            (INBOUND, {"*": {NUMBER: Greeter}}, Greeter),
            (CallFacts(direction="inbound"), {"*": Greeter}, Greeter),
        ],
    )
    def test_a_flow_for_each_of_our_numbers(self, facts: CallFacts, flows: Flow, kind: type) -> None:
        """By the number that was called; of a call that is dialled by the one it shows; ``*`` is any other."""
        assert type(session_for(flows, facts)) is kind

    def test_a_number_without_a_flow_is_rejected(self, caplog: pytest.LogCaptureFixture) -> None:
        """The log says so, and no number."""
        assert session_for({OTHER: Greeter}, INBOUND) == reject()
        assert "no flow for the number it came to" in caplog.text
        assert NUMBER not in caplog.text
        caplog.clear()

    @pytest.mark.parametrize("made", [None, "Greeter", 7, object, Call])
    def test_anything_else_is_an_error(self, made: Any) -> None:
        """It names what came."""
        with pytest.raises(TypeError, match="a flow makes a VoiceSession"):
            session_for(lambda facts: made, INBOUND)

    @pytest.mark.parametrize(("flow", "outcome"), [(reject, "rejected"), (busy, "busy")])
    def test_a_caller_who_is_refused_is_not_answered(self, flow: Any, outcome: str) -> None:
        """Nor billed: Twilio's own record says rejected, or busy; nothing is left of it."""
        with town() as t:
            server = t.serve(lambda facts: flow() if facts.caller == CALLER else Greeter)
            call = t.call()
            assert call.wait_ended() == outcome
            assert "in-progress" not in [status for _, status in call.status_history]
            assert empty(server) == (0, 0, 0)
            other = t.call(from_="+358400000001")
            assert other.wait_ended() == "completed"
            assert other.heard.heard_ulaw() == VOICE.audio("hello and goodbye")

    def test_two_numbers_two_flows(self) -> None:
        """Each caller reaches their own."""
        with town() as t:

            class Second(VoiceSession):
                def run(self) -> None:
                    self.say("the second")

            t.serve({NUMBER: Greeter, OTHER: Second})
            t.fake.add_number(OTHER, voice_url="https://voice.example.com/voice")
            heard = []
            for number in (NUMBER, OTHER):
                call = t.call(to=number)
                call.wait_ended()
                heard.append(call.heard.heard_ulaw())
            assert heard == [VOICE.audio("hello and goodbye"), VOICE.audio("the second")]

    def test_a_flow_that_refuses_makes_no_call(self) -> None:
        """dial() says so, and Twilio hears nothing of it."""
        with town() as t:
            server = t.serve(Greeter)
            with pytest.raises(ConfigurationError, match="reject"):
                server.dial(CALLER, flow=lambda facts: busy())
            assert t.fake.calls == []
            assert empty(server) == (0, 0, 0)


class TestHowMany:
    """VOICE_MAX_CALLS."""

    def test_one_too_many_is_told_politely(self, caplog: pytest.LogCaptureFixture) -> None:
        """By Twilio's voice; the others notice nothing, and a place that is free again is given again."""
        with town() as t:
            server = t.serve(Sleeper, settings=t.settings(voice_max_calls=2), busy_message="All lines are busy")
            first, second = t.call(), t.call(from_="+358400000002")
            first.wait_streaming()
            second.wait_streaming()
            third = t.call(from_="+358400000003")
            assert third.wait_ended() == "completed"
            assert third.said == ["All lines are busy"]
            assert third.streams == []
            assert [call.status for call in (first, second)] == ["in-progress"] * 2
            assert "one too many" in caplog.text
            first.hang_up()
            t.clock.sleep(1)
            fourth = t.call(from_="+358400000004")
            fourth.wait_streaming()
            assert len(server.calls) == 2
            caplog.clear()

    def test_or_with_the_engaged_tone(self, caplog: pytest.LogCaptureFixture) -> None:
        """Where nothing is to be said, the call is not even answered."""
        with town() as t:
            t.serve(Sleeper, settings=t.settings(voice_max_calls=1), busy_message=None)
            t.call().wait_streaming()
            assert t.call(from_="+358400000002").wait_ended() == "busy"
            caplog.clear()

    def test_those_who_call_at_the_same_moment_count_too(self, caplog: pytest.LogCaptureFixture) -> None:
        """However long the constructors take: not one call more than allowed."""
        with town() as t:

            class Slow(Sleeper):
                def __init__(self) -> None:
                    super().__init__()
                    t.clock.sleep(2)

            server = t.serve(Slow, settings=t.settings(voice_max_calls=3), busy_message="All lines are busy")
            calls = [t.call(from_=f"+35840000000{n}") for n in range(8)]
            t.clock.sleep(5)
            assert len(server.calls) == 3
            assert sorted(call.said == ["All lines are busy"] for call in calls) == [False] * 3 + [True] * 5
            caplog.clear()

    def test_a_constructor_that_fails_takes_no_place(self, caplog: pytest.LogCaptureFixture) -> None:
        """Nor does a caller who was refused."""
        with town() as t:
            made = iter(range(10))

            class Picky(Sleeper):
                def __init__(self) -> None:
                    super().__init__()
                    if next(made) == 0:
                        raise ValueError("not today")

            server = t.serve(Picky, settings=t.settings(voice_max_calls=1), apology="sorry")
            first = t.call()
            assert first.wait_ended() == "completed"
            assert first.said == ["sorry"]
            call = t.call()
            call.wait_streaming()
            assert len(server.calls) == 1
            caplog.clear()


class TestNothingIsLeft:
    """Of a call that is over, however it ended."""

    @pytest.mark.parametrize("end", ["they", "we", "no stream", "refused", "lost"])
    def test_of_one_that_came_in(self, end: str, caplog: pytest.LogCaptureFixture) -> None:
        """No call, no place, no token."""
        faults = Faults(handshake_403=100) if end == "no stream" else Faults()
        with town(faults=faults) as t:
            server = t.serve(Sleeper if end != "refused" else (lambda facts: reject()))
            call = t.call()
            if end in ("they", "we", "lost"):
                call.wait_streaming()
                if end == "they":
                    call.hang_up()
                elif end == "we":
                    server.calls[0].hang_up()
                else:
                    t.fake.faults.webhook_refused = 100
                    snap(t, call)
            call.wait_ended(120)
            t.clock.sleep(70)
            assert empty(server) == (0, 0, 0)
            caplog.clear()

    @pytest.mark.parametrize("answer", ["answer", "busy", "no-answer", "reject", "failed"])
    def test_of_one_that_was_dialled(self, answer: Any) -> None:
        """Answered or not."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(answer=answer, ring_ms=500)
            call = server.dial(CALLER, timeout=10)
            assert call.wait(60)
            t.clock.sleep(10)
            assert empty(server) == (0, 0, 0)
            assert server.finished == [call]

    @pytest.mark.parametrize("fault", ["rest_503_before", "rest_500_after", "rest_reset", "rest_429"])
    def test_of_one_that_could_not_be_placed(self, fault: str, caplog: pytest.LogCaptureFixture) -> None:
        """Refused for certain, or nobody knows."""
        faults = Faults(drop_callbacks=True)
        setattr(faults, fault, 10)
        with town(faults=faults) as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(answer="busy")
            with pytest.raises(RestError):
                server.dial(CALLER)
            t.clock.sleep(130)
            assert empty(server) == (0, 0, 0)
            caplog.clear()

    def test_of_hundreds_in_a_row(self) -> None:
        """Sessions are let go of, all but those of the last hundred, which finished keeps."""
        with town(timings=Timings(calls_per_second=1000)) as t:
            alive: weakref.WeakSet[VoiceSession] = weakref.WeakSet()

            class Brief(VoiceSession):
                def __init__(self) -> None:
                    super().__init__()
                    alive.add(self)

                def run(self) -> None:
                    self.hang_up(after=0)

            server = t.serve(Brief)
            for _ in range(15):
                calls = [t.call(from_=f"+3584000000{n:02d}") for n in range(20)]
                for call in calls:
                    assert call.wait_ended() == "completed"
            t.clock.sleep(200)
            assert empty(server) == (0, 0, 0)
            assert len(server.finished) == 100
            t.call().wait_ended()
            t.clock.sleep(200)
            gc.collect()
            assert len(alive) == 100
            switchboard = server._switchboard
            assert len(switchboard._late) <= 1
            assert not switchboard.up
            assert len(switchboard._progress) + len(switchboard._losses) + len(switchboard._issued) == 0


class TestStreams:
    """Which stream is a call's."""

    def test_a_token_is_good_once(self, caplog: pytest.LogCaptureFixture) -> None:
        """A handshake that is replayed, changed or invented is answered 403, though it is signed."""
        with town() as t:
            server = t.serve(Sleeper)
            call = t.call()
            call.wait_streaming()
            used = call.streams[0].url
            for url in (used, used[:-4] + "AAAA", used + "x", "wss://voice.example.com/voice/", used + "?a=b"):
                assert t.fake.knock(url) in (403, 404)
            assert call.status == "in-progress"
            assert len(server.calls) == 1
            caplog.clear()

    def test_a_token_expires(self, caplog: pytest.LogCaptureFixture) -> None:
        """After a minute, whoever comes with it."""
        with town(faults=Faults(handshake_403=1)) as t:
            server = t.serve(Sleeper)
            twilio = Twilio(t, server)
            answer = twilio.ask("/voice", voice(CallSid="CA" + "1" * 32))
            url = answer.text.partition('url="')[2].partition('"')[0]
            assert url.startswith("wss://voice.example.com/voice/")
            t.clock.sleep(61)
            assert t.fake.knock(url) == 403
            assert "unknown, used or expired" in caplog.text
            caplog.clear()

    @pytest.mark.parametrize("signature", ["wrong", "missing"])
    def test_a_token_alone_opens_nothing(self, signature: Any, caplog: pytest.LogCaptureFixture) -> None:
        """403 before anything is accepted or made; the genuine handshake afterwards is."""
        with town() as t:
            server = t.serve(Sleeper)
            twilio = Twilio(t, server)
            answer = twilio.ask("/voice", voice(CallSid="CA" + "1" * 32))
            url = answer.text.partition('url="')[2].partition('"')[0]
            t.fake.faults.signature = signature
            assert t.fake.knock(url) == 403
            assert t.fake.knock(url, signed=False) == 403
            assert server.calls == []
            t.fake.faults.signature = "right"
            assert t.fake.knock(url) == 101
            caplog.clear()

    @pytest.mark.parametrize("wrong", ["another call", "over"])
    def test_a_token_is_its_calls_own(self, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
        """A stream that says it is another call's, and one whose call has ended meanwhile, are closed at once."""
        sid = "CA" + "1" * 32
        with town() as t:
            server = t.serve(Sleeper)
            bystander = t.call()
            bystander.wait_streaming()
            answer = Twilio(t, server).ask("/voice", voice(CallSid=sid))
            url = answer.text.partition('url="')[2].partition('"')[0]
            if wrong == "over":
                (ours,) = [call for call in server._switchboard.open if call.call_sid == sid]
                ours.not_answered(CallOutcome.CANCELED)

            async def connect() -> Any:
                headers = [("x-twilio-signature", sign(url, None, t.fake.auth_token))]
                wire = await t.fake._exchange.network.connect(url, headers)
                if isinstance(wire, ConnectFailure):
                    return wire.http_status
                line = MediaLine(wire, call_sid=bystander.sid if wrong == "another call" else sid)
                return await line.run()

            assert t.fake._loop is not None
            assert block_on(connect(), t.fake._loop, t.clock) in (LineEnd.APP_CLOSED, 403)
            assert [call.call_sid for call in server.calls] == [bystander.sid]
            assert bystander.status == "in-progress"
            caplog.clear()

    def test_a_webhook_that_is_told_twice_makes_one_call(self) -> None:
        """Twilio repeats a request whose answer was lost: the call is up once, and heard once."""
        with town() as t:
            made: list[CallFacts] = []

            def make(facts: CallFacts) -> VoiceSession:
                made.append(facts)
                return Greeter()

            server = t.serve(make)
            call = t.call()
            call.wait_streaming()
            twilio = Twilio(t, server)
            twilio.ask("/voice", voice(CallSid=call.sid))
            assert len(server.calls) == 1
            call.wait_ended()
            assert call.heard.heard_ulaw() == VOICE.audio("hello and goodbye")
            t.clock.sleep(70)
            assert empty(server) == (0, 0, 0)


class TestLosses:
    """A stream that breaks."""

    def broken(self, t: Town, text: str, times: int, *, apart: float = 2.0, **options: Any) -> Any:
        class Speaker(VoiceSession):
            def run(self) -> str:
                self.say(text)
                return "said"

        server = t.serve(Speaker, **options)
        call = t.call()
        call.wait_streaming()
        for _ in range(times):
            t.clock.sleep(apart)
            snap(t, call)
        return server, call

    @pytest.mark.parametrize("times", [1, 2, 3])
    def test_the_call_goes_on_where_the_ear_was(self, times: int) -> None:
        """The action asks, the same session is connected again, and the sentence is heard to its end."""
        with town() as t:
            text = "word " * 40  # twelve seconds
            server, call = self.broken(t, text, times)
            assert call.wait_ended(60) == "completed"
            assert len(call.streams) == 1 + times
            heard = call.heard.heard_ulaw()
            assert abs(len(heard) - len(VOICE.audio(text))) <= times * 40 * 8
            assert server.finished[-1].result == "said"
            assert server.finished[-1].ended_reason == "hung_up"

    def test_too_often_is_the_end(self, caplog: pytest.LogCaptureFixture) -> None:
        """Three losses within a minute are made good; at the next Twilio's voice apologises and the call is over."""
        with town() as t:
            server, call = self.broken(t, "word " * 100, 4, apology="so sorry")
            assert call.wait_ended(60) == "completed"
            assert call.said == ["so sorry"]
            ours = server.finished[-1]
            assert ours.wait(5)
            assert ours.ended_reason == "stream_lost"
            assert "again and again" in caplog.text
            caplog.clear()

    def test_losses_are_forgotten_after_a_minute(self) -> None:
        """A line that is bad now and then is still a line."""
        with town() as t:
            server, call = self.broken(t, "word " * 500, 6, apart=21)
            assert call.status == "in-progress"
            assert len(server.calls) == 1
            call.hang_up()

    def test_a_caller_who_hung_up_without_a_word_is_noticed(self) -> None:
        """Twilio is asked at once, not only after the time a stream is waited for."""
        from voice_runtime.transports.mock_line import LineFaults

        with town(faults=Faults(line=LineFaults(no_stop=True))) as t:
            server = t.serve(Sleeper)
            call = t.call()
            call.wait_streaming()
            ours = server.calls[0]
            call.hang_up()
            at = t.clock.monotonic()
            assert ours.wait(30)
            assert t.clock.monotonic() - at < 1.5
            assert ours.ended_reason == "caller_hung_up"

    def test_an_action_that_never_comes_is_waited_for_a_moment(self, caplog: pytest.LogCaptureFixture) -> None:
        """Eight seconds; then the call is over, and Twilio is not left with it."""
        with town() as t:
            server = t.serve(Sleeper)
            call = t.call()
            call.wait_streaming()
            ours = server.calls[0]
            t.fake.faults.webhook_timeout = 100
            snap(t, call)
            at = t.clock.monotonic()
            assert ours.wait(30)
            assert t.clock.monotonic() - at == pytest.approx(8, abs=0.5)
            assert ours.ended_reason == "stream_lost"
            caplog.clear()


SEQUENCES = {vector["name"]: vector["bodies"] for vector in VECTORS["call_status_callbacks"]}


class TestWhatIsTold:
    """Status callbacks of a dialled call."""

    def told(self, name: str, order: list[int]) -> Call:
        """A call about which these callbacks come, in this order. Those of the fake itself are dropped."""
        with town(faults=Faults(drop_callbacks=True)) as t:
            server = t.serve(Sleeper)
            bystander = t.call(from_="+358400000001")
            bystander.wait_streaming()
            t.fake.phones[CALLER] = Phone(ring_ms=500 if name == "answered call" else 50_000)
            call = server.dial(CALLER)
            t.clock.sleep(3)
            twilio = Twilio(t, server)
            for n in order:
                body = {**fields(SEQUENCES[name][n]), "CallSid": call.call_sid}
                assert twilio.ask(f"/voice/status/{call.key}", body).status_code == 204
            assert call.wait(5)
            t.clock.sleep(1)
            assert bystander.status == "in-progress"
            assert len(server.calls) == 1
            return call

    @settings(max_examples=15, deadline=None)
    @given(st.permutations(range(4)), st.lists(st.integers(0, 3), max_size=3))
    def test_an_answered_call_in_every_order(self, order: list[int], again: list[int]) -> None:
        """It was answered and has ended, whichever callback came first, or twice."""
        call = self.told("answered call", order + again)
        assert (call.outcome, call.ended_reason, call.status) == ("answered", "completed", "completed")

    @settings(max_examples=10, deadline=None)
    @given(st.permutations(range(3)), st.lists(st.integers(0, 2), max_size=3))
    def test_a_busy_line_in_every_order(self, order: list[int], again: list[int]) -> None:
        """Busy, and nothing else."""
        call = self.told("busy", order + again)
        assert (call.outcome, call.ended_reason, call.status) == ("busy", "busy", "busy")

    def test_callbacks_that_come_long_after_the_end(self) -> None:
        """They change nothing, and bring nothing back."""
        with town(faults=Faults(drop_callbacks=True)) as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=500)
            call = server.dial(CALLER)
            assert call.wait(60)
            twilio = Twilio(t, server)
            for seconds in (1, 60, 120):
                t.clock.sleep(seconds)
                for body in SEQUENCES["busy"]:
                    twilio.ask(f"/voice/status/{call.key}", {**fields(body), "CallSid": call.call_sid})
                twilio.ask(f"/voice/machine/{call.key}", {"AnsweredBy": "fax"})
                assert (call.ended_reason, call.result is not None) == ("hung_up", True)
                assert empty(server) == (0, 0, 0)


def test_two_servers_know_nothing_of_each_other(caplog: pytest.LogCaptureFixture) -> None:
    """A webhook for the other one's call is for a call nobody knows."""
    caplog.set_level(logging.INFO)
    with town() as t:
        one = t.serve(Sleeper)
        call = t.call()
        call.wait_streaming()
        key = one.calls[0].key
        other = VoiceServer(Sleeper, apology="so sorry", settings=t.settings(), clock=t.clock, tts="mock", stt="mock")
        assert "so sorry" in Twilio(t, other).ask(f"/voice/next/{key}/stream", voice(CallSid=call.sid)).text
        assert call.status == "in-progress"
        caplog.clear()
