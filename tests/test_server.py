"""The server against a Twilio that behaves: webhook, token, stream, flow, REST and the way back, in virtual time."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import pytest

from tests.call_line import ScriptedVoice, speaking
from tests.town import CALLER, NUMBER, VOICE, Greeter, Sleeper, Town, town
from voice_runtime.config import Settings
from voice_runtime.events import CallEnded, FlowFailed, Outcome
from voice_runtime.exceptions import (
    CallHangupError,
    CallNotAnsweredError,
    ConfigurationError,
    InvalidNumberError,
    ProviderUnavailableError,
    RestError,
)
from voice_runtime.facts import CallFacts
from voice_runtime.mock.stt import MockStt
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession
from voice_runtime.testing.fake_twilio_settings import Faults
from voice_runtime.testing.phone import Phone


class TestInbound:
    """Somebody calls."""

    def test_a_call_from_webhook_to_hang_up(self) -> None:
        """The greeting is heard whole, run() knows who called, and Twilio's own record says completed."""
        with town() as t:
            results: list[str] = []

            class Flow(Greeter):
                def run(self) -> str:
                    results.append(super().run())
                    return results[-1]

            server = t.serve(Flow)
            call = t.call()
            assert call.wait_ended() == "completed"
            assert call.heard.heard_ulaw() == VOICE.audio("hello and goodbye")
            assert results == [f"{CALLER} called {NUMBER}, inbound"]
            assert t.fake.warnings(call) in ([], [31921])
            t.clock.sleep(10)
            assert server.calls == []
            assert t.events.of(CallEnded)[0].reason == "hung_up"

    def test_the_caller_may_hang_up_first(self) -> None:
        """run() is ended by CallHangupError, quietly."""
        with town() as t:
            ended: list[Any] = []

            class Flow(VoiceSession):
                def run(self) -> None:
                    try:
                        self.say("word " * 100)
                    except CallHangupError as error:
                        ended.append(error.partial)
                        raise

            t.serve(Flow)
            call = t.call(script=lambda call: (call.sleep(2), call.hang_up()))
            call.wait_ended()
            t.clock.sleep(0.2)
            assert ended[0].outcome is Outcome.HUNG_UP
            assert ended[0].heard_ms > 1000
            assert ended[0].heard_ms == pytest.approx(call.heard.heard_ms(), abs=20)
            assert t.events.of(FlowFailed) == []

    def test_an_exception_in_run_is_logged_and_apologised_for(self, caplog: pytest.LogCaptureFixture) -> None:
        """The traceback stands under the call's id; the caller hears the apology and the call ends cleanly."""
        with town() as t:

            class Broken(VoiceSession):
                def run(self) -> None:
                    raise ZeroDivisionError("by me")

            t.serve(Broken, apology="so sorry")
            call = t.call()
            assert call.wait_ended() == "completed"
            assert call.heard.heard_ulaw() == VOICE.audio("so sorry")
            record = next(r for r in caplog.records if "run() failed" in r.getMessage())
            assert call.sid in record.getMessage()
            assert record.exc_info is not None
            assert "ZeroDivisionError" in t.events.of(FlowFailed)[0].error
            caplog.clear()

    def test_a_failing_voice_still_ends_the_call(self, caplog: pytest.LogCaptureFixture) -> None:
        """When even the apology cannot be said there is no silent line."""
        with town() as t:
            t.serve(Greeter, tts=speaking(ScriptedVoice(fail_after=0)))
            call = t.call()
            assert call.wait_ended(30) == "completed"
            assert "the apology could not be said" in caplog.text
            caplog.clear()

    def test_system_exit_in_run_ends_the_call_only(self) -> None:
        """The process and the other calls go on."""
        with town() as t:

            class Leaving(VoiceSession):
                def run(self) -> None:
                    raise SystemExit(3)

            server = t.serve(Leaving)
            assert t.call().wait_ended(30) == "completed"
            assert t.call().wait_ended(30) == "completed"
            assert server.calls == []

    def test_one_flow_never_disturbs_another(self) -> None:
        """Ten callers, one of whose flows crashes, one blocks: the others hear every sample."""
        with town() as t:
            kinds = iter(range(10))

            class Flow(VoiceSession):
                def __init__(self) -> None:
                    super().__init__()
                    self.kind = next(kinds)

                def run(self) -> None:
                    if self.kind == 3:
                        raise RuntimeError("mine alone")
                    if self.kind == 4:
                        time.sleep(0.05)
                    self.say(f"caller number {self.kind} of ten")

            t.serve(Flow, apology=None)
            calls = [t.fake.place_call(to=NUMBER, from_=f"+35840123456{n}", phone=Phone()) for n in range(10)]
            heard = []
            for call in calls:
                call.wait_ended()
                heard.append(call.heard.heard_ulaw())
            expected = [VOICE.audio(f"caller number {n} of ten") if n != 3 else b"" for n in range(10)]
            assert sorted(heard) == sorted(expected)

    def test_a_factory_gets_the_facts(self) -> None:
        """Constructor arguments from who called whom."""
        with town() as t:
            seen: list[CallFacts] = []

            def make(facts: CallFacts) -> VoiceSession:
                seen.append(facts)
                return Greeter()

            t.serve(make)
            call = t.call()
            call.wait_ended()
            facts = seen[0]
            assert (facts.call_sid, facts.caller, facts.called) == (call.sid, CALLER, NUMBER)
            assert facts.direction == "inbound"
            assert facts.fields["ApiVersion"] == "2010-04-01"

    def test_a_constructor_that_fails_is_apologised_for_by_twilio(self, caplog: pytest.LogCaptureFixture) -> None:
        """The webhook answers with spoken TwiML, not with an error page."""
        with town() as t:

            class Picky(VoiceSession):
                def __init__(self) -> None:
                    raise ValueError("not today")

            t.serve(Picky, apology="not today")
            call = t.call()
            assert call.wait_ended() == "completed"
            assert call.said == ["not today"]
            assert "not today" in caplog.text
            caplog.clear()

    def test_calls_have_a_longest_length(self) -> None:
        """VOICE_MAX_CALL_SECONDS ends what would go on for ever."""
        with town() as t:
            t.serve(Sleeper, settings=t.settings(voice_max_call_seconds=90))
            call = t.call()
            began = t.clock.monotonic()
            assert call.wait_ended(600) == "completed"
            assert t.clock.monotonic() - began == pytest.approx(91, abs=2)
            t.clock.sleep(0.1)
            assert t.events.of(CallEnded)[0].reason == "too_long"

    def test_a_thread_that_will_not_end_is_named(self, caplog: pytest.LogCaptureFixture) -> None:
        """A flow that sleeps outside the runtime cannot be killed, so it is reported."""
        with town() as t:
            release = t.clock.event()

            class Stuck(VoiceSession):
                def run(self) -> None:
                    release.wait()

            t.serve(Stuck)
            call = t.call(script=lambda call: call.hang_up())
            call.wait_ended()
            t.clock.sleep(12)
            assert f"The thread of call {call.sid} still runs" in caplog.text
            caplog.clear()
            release.set()

    def test_transcript_and_result_are_on_the_call(self) -> None:
        """What run() returned, and who said what."""
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> str:
                    self.say("your name please")
                    return self.listen(timeout=5).text

            server = t.serve(Flow)
            call = t.call()
            call.wait_streaming()
            ours = server.calls[0]
            t.clock.sleep(2)
            ours.session.stt.inject("Ada Lovelace")  # type: ignore[union-attr]
            assert ours.wait(10)
            assert (ours.result, ours.error, ours.ended_reason) == ("Ada Lovelace", None, "hung_up")
            assert [(line.speaker, line.text) for line in ours.transcript] == [
                ("agent", "your name please"),
                ("caller", "Ada Lovelace"),
            ]

    def test_sms_goes_to_the_caller(self) -> None:
        """Through the real SDK to Twilio's REST API; also when the caller has hung up meanwhile."""
        with town() as t:
            sent: list[Any] = []

            class Texter(VoiceSession):
                def run(self) -> None:
                    sent.append(self.send_sms("See you at eight!"))
                    self.hang_up()
                    sent.append(self.send_sms("And again."))

            t.serve(Texter)
            t.call().wait_ended()
            t.clock.sleep(1)
            assert [(m.to, m.body) for m in t.fake.messages] == [
                (CALLER, "See you at eight!"),
                (CALLER, "And again."),
            ]
            assert sent[0]["status"] == "queued"

    def test_health_counts_calls(self) -> None:
        """GET /health needs no signature and tells no secret."""
        with town() as t:
            server = t.serve(Sleeper)
            call = t.call()
            call.wait_streaming()
            answer = get(t, server, "/health")
            assert answer.json() == {"status": "ok", "calls": 1}
            call.hang_up()


def get(t: Town, server: VoiceServer, path: str, **request: Any) -> httpx.Response:
    from voice_runtime.testing.phone import block_on

    async def fetch() -> httpx.Response:
        transport = httpx.ASGITransport(app=server.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://voice.example.com") as client:
            return await client.request(request.pop("method", "GET"), path, **request)

    assert t.fake._loop is not None
    return block_on(fetch(), t.fake._loop, t.clock)


class TestClosedByDefault:
    """Who is let in."""

    @pytest.mark.parametrize("signature", ["wrong", "missing", "secondary", "shared_key"])
    def test_webhooks_and_streams_not_signed_by_us_are_refused(
        self, signature: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        """403, and no session was made."""
        with town(faults=Faults(signature=signature)) as t:
            made: list[CallFacts] = []

            def make(facts: CallFacts) -> VoiceSession:
                made.append(facts)
                return Greeter()

            t.serve(make)
            call = t.call()
            call.wait_ended()
            assert made == []
            assert "Refused a request" in caplog.text
            caplog.clear()

    def test_rotated_and_shared_keys_are_accepted_when_configured(self) -> None:
        """Two auth tokens while one is rotated; a SharedKey by its id."""
        for signature in ("secondary", "shared_key"):
            with town(faults=Faults(signature=signature)) as t:
                key, secret = t.fake.shared_key
                t.serve(
                    Greeter,
                    settings=t.settings(
                        twilio_auth_token=f"{t.fake.auth_token},{t.fake.secondary_auth_token}",
                        twilio_shared_keys={key: secret},
                    ),
                )
                call = t.call()
                assert call.wait_ended() == "completed"
                assert call.heard.heard_ulaw() == VOICE.audio("hello and goodbye")

    def test_without_an_auth_token_nothing_is_served(self, caplog: pytest.LogCaptureFixture) -> None:
        """Nothing to check with means nobody is let in; the log names the variable."""
        with town() as t:
            t.serve(Greeter, settings=t.settings(twilio_auth_token=None))
            call = t.call()
            call.wait_ended()
            assert call.heard.heard_bytes() == 0
            assert "TWILIO_AUTH_TOKEN" in caplog.text
            caplog.clear()

    def test_a_token_is_good_once_and_for_its_call(self, caplog: pytest.LogCaptureFixture) -> None:
        """A handshake replayed, invented or late is refused although it is signed."""
        from voice_runtime.testing.phone import block_on
        from voice_runtime.transports.twilio_signature import sign

        with town() as t:
            t.serve(Sleeper)
            call = t.call()
            call.wait_streaming()
            used = call.streams[0].url

            async def knock(url: str) -> Any:
                signature = sign(url, None, t.fake.auth_token)
                network = t.fake._exchange.network
                return await network.connect(url, [("x-twilio-signature", signature)])

            for url in (used, used[:-4] + "AAAA", "wss://voice.example.com/voice/"):
                assert t.fake._loop is not None
                answer = block_on(knock(url), t.fake._loop, t.clock)
                assert "403" in repr(answer) or "404" in repr(answer), answer
            call.hang_up()
            assert "unknown, used or expired" in caplog.text
            caplog.clear()

    def test_huge_and_garbled_webhooks_are_refused(self, caplog: pytest.LogCaptureFixture) -> None:
        """Too large, not a form, not signed: 403, and the server goes on."""
        with town() as t:
            server = t.serve(Greeter)
            for body in (b"x" * 100_000, b"\xff\xfe\x00", b"", b"{}"):
                answer = get(t, server, "/voice", method="POST", content=body, headers={"x-twilio-signature": "AAAA"})
                assert answer.status_code == 403
            assert get(t, server, "/docs").status_code == 404
            assert t.call().wait_ended() == "completed"
            caplog.clear()

    def test_numbers_and_words_are_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """At DEBUG, a whole call leaves neither the caller's number nor what was said in the log."""
        caplog.set_level(logging.DEBUG, logger="voice_runtime")
        with town() as t:

            class Flow(VoiceSession):
                def run(self) -> None:
                    self.say("secret words")

            t.serve(Flow)
            t.call().wait_ended()
            t.clock.sleep(1)
            ours = [r.getMessage() for r in caplog.records if r.name.startswith("voice_runtime")]
            assert [m for m in ours if CALLER in m or "secret words" in m] == []


class TestOutbound:
    """We call."""

    def test_dial_connects_and_returns_the_result(self) -> None:
        """REST, ring, answer, stream, flow, hang-up."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=2000)
            call = server.dial(CALLER)
            assert call.call_sid.startswith("CA")
            call.wait_answered(30)
            assert call.wait(60)
            assert call.result == f"{NUMBER} called {CALLER}, outbound-api"
            assert call.ended_reason == "hung_up"
            twilios = t.fake.wait_for_call(to=CALLER)
            assert twilios.sid == call.call_sid
            assert twilios.heard.heard_ulaw() == VOICE.audio("hello and goodbye")

    @pytest.mark.parametrize("answer", ["busy", "no-answer"])
    def test_nobody_answers(self, answer: Any) -> None:
        """wait_answered() says what happened, at once when it happens; nothing is left over."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=1000, answer=answer)
            call = server.dial(CALLER, timeout=20)
            with pytest.raises(CallNotAnsweredError, match=answer) as caught:
                call.wait_answered()
            assert call.wait(1)
            assert call.outcome == answer
            assert server.calls == []
            assert caught.value.outcome == answer

    def test_a_call_nobody_reports_on_is_given_up(self, caplog: pytest.LogCaptureFixture) -> None:
        """No stream, no status callback: after the ringing time and a minute the wait ends."""
        with town(faults=Faults(drop_callbacks=True)) as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=1000, answer="busy")
            call = server.dial(CALLER, timeout=20)
            assert call.wait(200)
            assert call.ended_reason == "never_connected"
            caplog.clear()

    def test_the_first_callback_may_overtake_the_answer(self) -> None:
        """The call is registered before the request is made."""
        with town(faults=Faults(early_callback=True)) as t:
            server = t.serve(Greeter)
            call = server.dial(CALLER)
            assert call.wait(60)
            assert call.ended_reason == "hung_up"

    def test_a_call_that_rings_can_be_ended(self) -> None:
        """call.hang_up(), and so the end of the server, stops the ringing."""
        with town() as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=20_000)
            call = server.dial(CALLER)
            t.clock.sleep(2)
            server.end_calls()
            assert call.wait(1)
            assert t.fake.wait_for_call(to=CALLER).wait_ended(5) == "canceled"

    def test_a_status_that_says_completed_closes_the_stream(self) -> None:
        """Twilio's word counts: nothing of ours stays up."""
        with town() as t:
            server = t.serve(Sleeper)
            call = server.dial(CALLER)
            call.wait_answered()
            call.completed()
            assert call.wait(5)
            assert t.fake.wait_for_call(to=CALLER).wait_ended(5)
            assert server.calls == []

    def test_one_session_for_two_callers_is_refused(self) -> None:
        """A factory that returns the same session again: the second caller does not hear the first."""
        with town() as t:
            session = Sleeper()
            t.serve(lambda _: session)
            first = t.call()
            first.wait_streaming()
            second = t.call()
            assert second.wait_ended(30) == "completed"
            assert second.heard.heard_bytes() == 0
            assert first.status == "in-progress"
            first.hang_up()

    def test_slow_flows_and_providers_keep_no_caller_waiting(self) -> None:
        """Twenty constructors and recognisers that take ten seconds each: the next caller is greeted at once."""
        with town() as t:
            made = iter(range(100))

            class Slow(Greeter):
                def __init__(self) -> None:
                    super().__init__()
                    self.number = next(made)
                    if self.number < 20:
                        t.clock.sleep(10)

            def slow_ear() -> MockStt:
                t.clock.sleep(10)
                return MockStt()

            t.serve(Slow, stt=slow_ear)
            for n in range(20):
                t.fake.place_call(to=NUMBER, from_=f"+3584012345{n:02d}", phone=Phone())
            t.clock.sleep(0.5)
            call = t.call()
            call.hears(300, timeout=2)
            call.wait_ended()
            t.clock.sleep(30)

    def test_bad_numbers_make_no_request(self) -> None:
        """Refused with a sentence before Twilio hears of it."""
        with town() as t:
            server = t.serve(Greeter)
            with pytest.raises(InvalidNumberError, match="country code"):
                server.dial("040 123")
            assert t.fake.calls == []

    @pytest.mark.parametrize("fault", ["rest_500_after", "rest_reset"])
    def test_a_call_whose_answer_is_lost_is_found_by_its_callback(self, fault: str) -> None:
        """500, or no answer, after the call was placed: one call, and it is ours."""
        with town() as t:
            server = t.serve(Greeter)
            setattr(t.fake.faults, fault, 1)
            call = server.dial(CALLER)
            assert len(t.fake.calls) == 1
            assert call.wait(60)
            assert call.call_sid == t.fake.calls[0].sid
            assert call.outcome == "answered"
            assert len(t.fake.calls) == 1

    def test_an_unknown_outcome_is_not_tried_again(self, caplog: pytest.LogCaptureFixture) -> None:
        """Neither answer nor callback: an error that says it may exist, and should it show up it is ended."""
        with town(faults=Faults(rest_500_after=1, callback_delay_ms=8000)) as t:
            server = t.serve(Greeter)
            t.fake.phones[CALLER] = Phone(ring_ms=30_000)
            with pytest.raises(RestError) as caught:
                server.dial(CALLER)
            assert caught.value.maybe_done
            assert len(t.fake.calls) == 1
            assert t.fake.calls[0].wait_ended(20) == "canceled"
            assert server.calls == []
            assert "it is ended" in caplog.text
            caplog.clear()

    def test_without_a_running_server_there_is_nobody_to_connect_to(self) -> None:
        """The error says what to write."""
        with town() as t:
            server = VoiceServer(Greeter, settings=t.settings(), clock=t.clock, tts=speaking(VOICE), stt=MockStt)
            with pytest.raises(ConfigurationError, match="running"):
                server.dial(CALLER)


class TestRun:
    """VoiceServer.run() as a program."""

    def test_says_where_it_listens_and_ends_quietly(self, unused_port: int) -> None:
        """One line about the address, one about what is missing; Ctrl-C is no traceback, and what follows runs."""
        program = (
            "from voice_runtime import VoiceServer, VoiceSession\n"
            f"VoiceServer(VoiceSession, stt='mock', tts='mock').run('127.0.0.1', {unused_port})\n"
            "print('after run')\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(200):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{unused_port}/health").status_code == 200:
                    break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors
        assert f"Listening on 127.0.0.1 port {unused_port}" in errors
        assert "VOICE_STREAM_URL" in errors
        assert "TWILIO_AUTH_TOKEN" in errors
        assert "Traceback" not in errors
        assert "after run" in output


class TestMaking:
    """What the constructor checks."""

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"flow": Greeter()}, "class"),
            ({"flow": "Greeter"}, "class"),
            ({"flow": Greeter, "tts": MockStt()}, "a function that makes one"),
        ],
    )
    def test_objects_where_classes_belong(self, arguments: dict[str, Any], says: str) -> None:
        """Every call has its own session, voice and recogniser."""
        with pytest.raises(TypeError, match=says):
            VoiceServer(**arguments)

    def test_a_provider_that_is_not_there_is_told_at_once(self) -> None:
        """Not in the middle of the first call."""
        with pytest.raises(ProviderUnavailableError, match="elevenlabs"):
            VoiceServer(Greeter, tts="elevenlabs")

    def test_running_serves_on_a_real_port(self, unused_port: int) -> None:
        """In a thread, until the block ends; a taken port is an error that says where."""
        settings = Settings(voice_server_port=unused_port, voice_server_host="127.0.0.1")
        before = threading.active_count()
        with VoiceServer(Greeter, settings=settings, stt=MockStt, tts=speaking(VOICE)).running() as server:
            url = f"http://127.0.0.1:{unused_port}"
            assert httpx.get(f"{url}/health").json()["status"] == "ok"
            assert httpx.post(f"{url}/voice", data={"CallSid": "CA1"}).status_code == 403
            with (
                pytest.raises(OSError, match=f"127.0.0.1:{unused_port}.*in use"),
                VoiceServer(Greeter, settings=settings, stt=MockStt, tts=speaking(VOICE)).running(),
            ):
                pass
            assert server.calls == []
        assert threading.active_count() == before
