"""The session: verbs that tell the truth, end with the call and never touch another one."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest

from tests.call_line import Recorder, ScriptedVoice, exchange, speaking
from voice_runtime.events import CallEnded, CallStarted, Cleared, MarkSettled, Outcome, SayFinished
from voice_runtime.exceptions import (
    CallHangupError,
    CallNotAnsweredError,
    ConfigurationError,
    ProviderError,
    WrongThreadError,
)
from voice_runtime.session import VoiceSession
from voice_runtime.transports.mock_line import LineEnd, LineFaults

PROMPT = "one two three four five six seven eight nine ten"


def make(voice: ScriptedVoice | None = None) -> VoiceSession:
    session = VoiceSession()
    session.tts_factory = speaking(voice or ScriptedVoice())
    return session


class TestSay:
    """say() blocks until the caller has heard it and returns what was heard."""

    def test_returns_when_it_was_heard_not_when_it_was_sent(self) -> None:
        """Three seconds of speech take three seconds, and the caller heard every sample."""
        voice = ScriptedVoice()
        session = make(voice)
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            began = line_of.clock.monotonic()
            result = session.say(PROMPT)
            assert line_of.clock.monotonic() - began == pytest.approx(3.0, abs=0.05)
            assert result.outcome is Outcome.PLAYED
            assert result.complete
            assert (result.heard_text, result.heard_ms, result.duration_ms) == (PROMPT, 3000, 3000)
            assert line.heard == voice.audio(PROMPT)
            line.hang_up()

    def test_a_slow_voice_leaves_no_gap_it_could_have_avoided(self) -> None:
        """Audio made faster than real time is played without a pause although it comes word by word."""
        session = make(ScriptedVoice(pace=0.2))
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            session.say(PROMPT)
            assert line.media.heard.gaps() == []
            line.hang_up()

    def test_barge_in_stops_at_once_and_says_where(self) -> None:
        """A clear from another thread: silence now, the result ends with the last word heard."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            call = line_of.thread(lambda: session.say(PROMPT))
            line_of.clock.sleep(1.0)
            session.clear()
            result = call.join()
            assert result.outcome is Outcome.INTERRUPTED
            assert result.heard_ms == pytest.approx(1000, abs=40)
            assert result.heard_text == "one two three"
            line_of.clock.sleep(2)
            assert abs(len(line.heard) / 8 - result.heard_ms) <= 40
            line.hang_up()

    def test_stop_event_cuts_it(self) -> None:
        """The event of the 0.1.0 interface, set from another thread."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            stop = threading.Event()
            call = line_of.thread(lambda: session.say(PROMPT, stop_event=stop))
            line_of.clock.sleep(0.65)
            stop.set()
            assert call.join().heard_ms == pytest.approx(650, abs=60)
            line.hang_up()

    @pytest.mark.parametrize("how", ["stop", "drop"])
    def test_hang_up_ends_it_within_100_ms_with_the_partial_result(self, how: str) -> None:
        """The caller hangs up, or the line breaks, in the middle of a sentence."""
        voice = ScriptedVoice(pace=0.25)
        session = make(voice)
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            call = line_of.thread(lambda: session.say(PROMPT))
            line_of.clock.sleep(1.3)
            line.hang_up() if how == "stop" else line.drop()
            at = line_of.clock.monotonic()
            with pytest.raises(CallHangupError) as caught:
                call.join()
            assert call.ended_at is not None
            assert call.ended_at - at <= 0.1
            partial = caught.value.partial
            assert partial.outcome is Outcome.HUNG_UP
            assert 600 <= partial.heard_ms <= 1310
            assert caught.value.reason == ("caller_hung_up" if how == "stop" else "stream_lost")
            line_of.clock.sleep(1)
            assert voice.cancelled == 1
            assert len(voice.made) < 10

    def test_after_the_hang_up_every_verb_refuses_at_once(self) -> None:
        """Nothing waits for a line that is gone."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            line.hang_up()
            line_of.clock.sleep(0.5)
            began = line_of.clock.monotonic()
            for verb in (lambda: session.say("x"), lambda: session.play(b"\x00" * 160), lambda: session.sleep(5)):
                with pytest.raises(CallHangupError):
                    verb()
            assert session.send_mark_and_wait("late", timeout=5) is Outcome.HUNG_UP
            assert list(session.frames()) == []
            session.hang_up()
            assert line_of.clock.monotonic() == began

    def test_failing_voice_is_an_error_and_what_it_made_is_heard(self) -> None:
        """A voice that breaks off loses nothing it has made; the flow is told."""
        voice = ScriptedVoice(fail_after=4)
        session = make(voice)
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            with pytest.raises(ProviderError, match="the voice is gone"):
                session.say(PROMPT)
            assert line.heard == voice.audio("one two three four")
            result = session.speak_with(voice, PROMPT)
            assert result.outcome is Outcome.FAILED
            assert result.heard_text == "one two three four"
            line.hang_up()

    @pytest.mark.parametrize("after", [0, 2])
    def test_stalled_voice_has_a_deadline(self, after: int) -> None:
        """No first audio, or none any more: five seconds, then an error that says so."""
        session = make(ScriptedVoice(stall_after=after))
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            began = line_of.clock.monotonic()
            with pytest.raises(ProviderError, match="no audio within 5 s"):
                session.say(PROMPT)
            assert line_of.clock.monotonic() - began < 6.5
            line.hang_up()

    def test_two_threads_do_not_mix_their_sentences(self) -> None:
        """The second sentence comes behind the first."""
        voice = ScriptedVoice(pace=0.1)
        session = make(voice)
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            first = line_of.thread(lambda: session.say("aa bb cc"))
            line_of.clock.sleep(0.05)
            second = line_of.thread(lambda: session.say("dddd eeee ffff"))
            assert first.join().complete
            assert second.join().complete
            assert line.heard == voice.audio("aa bb cc") + voice.audio("dddd eeee ffff")
            line.hang_up()

    def test_lost_marks_do_not_hold_the_call_for_ever(self) -> None:
        """The mark never comes back: the verb returns and says that nothing proves it."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect(faults=LineFaults(marks_lost=True))
            session.wait_for_ws_connect(5)
            result = session.say("one two")
            assert result.outcome is Outcome.UNCONFIRMED
            line.hang_up()

    def test_empty_text_is_nothing_to_say(self) -> None:
        """No audio, no wait, no error."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            assert session.say("").heard_ms == 0
            line.hang_up()

    def test_without_a_voice_it_says_what_to_do(self) -> None:
        """The error names the argument."""
        session = VoiceSession()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            with pytest.raises(ConfigurationError, match="tts_factory"):
                session.say("hello")
            line.hang_up()


class TestEndings:
    """How a call ends, and that nothing is left of it."""

    def test_the_goodbye_is_heard(self) -> None:
        """hang_up() right behind queued audio clips nothing."""
        session = make()
        audio = bytes(range(1, 101)) * 240
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            session.put_outbound_sync(audio)
            session.hang_up()
            assert line.ended() is LineEnd.APP_CLOSED
            assert line.heard == audio
            assert session.is_disconnected
            assert session.ended_reason == "hung_up"

    def test_request_disconnect_cuts_now(self) -> None:
        """From any thread, without waiting for what is queued."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            call = line_of.thread(lambda: session.say(PROMPT))
            line_of.clock.sleep(0.5)
            session.request_disconnect()
            with pytest.raises(CallHangupError):
                call.join()
            assert line.ended() is LineEnd.APP_CLOSED
            assert session.ended_reason == "cut"

    def test_request_disconnect_before_the_stream_is_not_lost(self) -> None:
        """Asked for before the call connects, it ends the call as soon as it does."""
        session = make()
        with exchange(session) as line_of:
            session.request_disconnect()
            line = line_of.connect()
            assert line.ended(5) is LineEnd.APP_CLOSED

    def test_twenty_waiters_are_all_released(self) -> None:
        """Every verb of every thread ends in the instant of the hang-up."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            session.put_outbound_sync(b"\x11" * 80_000)
            calls = [
                line_of.thread(lambda n=n: session.send_mark_and_wait(f"m{n}", timeout=60))  # type: ignore[misc]
                for n in range(20)
            ]
            line_of.clock.sleep(1)
            line.hang_up()
            at = line_of.clock.monotonic()
            assert [call.join() for call in calls] == [Outcome.HUNG_UP] * 20
            assert all(call.ended_at is not None and call.ended_at - at <= 0.1 for call in calls)

    def test_media_that_stops_ends_the_call(self) -> None:
        """The path dies with the socket open: after ten seconds the call is over."""
        session = make()
        with exchange(session) as line_of:
            line_of.connect(faults=LineFaults(gaps=((2000, 1e9),)))
            session.wait_for_ws_connect(5)
            with pytest.raises(CallHangupError, match="media_stopped"):
                session.sleep(60)
            assert line_of.clock.monotonic() == pytest.approx(12, abs=1.2)

    def test_events_tell_the_story(self) -> None:
        """Observers see begin, speech, marks, clear and end, in order, on the callback thread."""
        session = make()
        events = Recorder()
        threads = set()
        session.subscribe(events.append)
        session.subscribe(lambda event: threads.add(threading.current_thread().name))
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            session.say("one two")
            session.clear()
            session.hang_up()
            line.ended()
            line_of.clock.sleep(1)
        kinds = [type(event) for event in events]
        assert kinds[0] is CallStarted
        assert kinds[-1] is CallEnded
        assert kinds.index(SayFinished) < kinds.index(Cleared)
        assert {event.label for event in events.of(MarkSettled)} >= {"end", "end-of-call"}
        assert threads == {"call-callbacks " + "CA" + "1" * 32}


class TestOneDoor:
    """Threads and the event loop."""

    @pytest.mark.parametrize("verb", ["say", "play", "listen", "hang_up", "sleep", "wait_for_ws_connect"])
    async def test_blocking_verbs_refuse_the_loop_thread(self, verb: str) -> None:
        """They would silence every call; the error says what to do instead."""
        arguments: dict[str, Any] = {"say": ["x"], "play": [b"x"], "sleep": [1]}
        with pytest.raises(WrongThreadError, match=r"asyncio\.to_thread"):
            getattr(make(), verb)(*arguments.get(verb, []))

    def test_frames_reach_a_thread_in_order_and_end_with_the_call(self) -> None:
        """What the caller says comes out byte for byte."""
        session = make()
        speech = bytes(n % 251 for n in range(16_000))
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            call = line_of.thread(lambda: b"".join(session.frames()))
            line_of.clock.sleep(0.1)
            line.says(speech)
            line_of.clock.sleep(0.1)
            line.hang_up()
            assert speech in call.join()

    def test_frames_have_a_timeout(self) -> None:
        """A silent path is noticed by whoever reads."""
        session = make()
        with exchange(session) as line_of:
            line = line_of.connect(faults=LineFaults(gaps=((1000, 5000),)))
            session.wait_for_ws_connect(5)
            with pytest.raises(TimeoutError, match="No audio from the caller for 2 s"):
                for _ in session.frames(timeout=2):
                    pass
            line.hang_up()


class TestReuse:
    """The documented form: one session for one call after the other."""

    def test_wait_for_a_stream_that_never_comes(self) -> None:
        """CallNotAnsweredError carries the timeout."""
        session = make()
        with exchange(session) as line_of:
            began = line_of.clock.monotonic()
            with pytest.raises(CallNotAnsweredError, match="30") as caught:
                session.wait_for_ws_connect(timeout=30)
            assert caught.value.timeout == 30
            assert line_of.clock.monotonic() - began == 30

    def test_a_second_caller_is_refused_while_one_is_up(self) -> None:
        """Two callers are never mixed: the second stream is closed, the first hears nothing of it."""
        session = make()
        with exchange(session) as line_of:
            first = line_of.connect(call_sid="CA" + "a" * 32)
            session.wait_for_ws_connect(5)
            call = line_of.thread(lambda: session.say("one two three"))
            line_of.clock.sleep(0.2)
            second = line_of.connect(call_sid="CA" + "b" * 32)
            assert second.ended(2) is LineEnd.APP_CLOSED
            assert second.media.close_code == 1008
            assert call.join().complete
            assert second.heard == b""
            assert session.call_sid == "CA" + "a" * 32
            first.hang_up()

    def test_the_next_call_finds_a_fresh_session(self) -> None:
        """With or without reset(): no mark, frame or wish of the earlier call is left."""
        voice = ScriptedVoice()
        session = make(voice)
        with exchange(session) as line_of:
            for number in range(5):
                line = line_of.connect(call_sid=f"CA{number:032d}")
                session.wait_for_ws_connect(5)
                if number == 0:
                    session.wait_for_ws_connect(5)
                session.put_outbound_sync(b"\x22" * 4000)
                line_of.clock.sleep(0.1)
                line.hang_up()
                line_of.clock.sleep(1)
                if number % 2:
                    session.reset()
                assert session.stream_sid is None
            line = line_of.connect(call_sid="CA" + "f" * 32)
            line_of.clock.sleep(0.2)
            assert not session.is_disconnected
            assert session.say("fresh start").complete
            assert line.heard == voice.audio("fresh start")
            line.hang_up()

    def test_reset_is_safe_while_a_call_is_up(self) -> None:
        """The old call ends, its verbs are released, and its socket cannot reach the next call."""
        session = make()
        with exchange(session) as line_of:
            old = line_of.connect(call_sid="CA" + "1" * 32)
            session.wait_for_ws_connect(5)
            call = line_of.thread(lambda: session.say(PROMPT))
            line_of.clock.sleep(0.4)
            session.reset()
            with pytest.raises(CallHangupError, match="reset"):
                call.join()
            new = line_of.connect(call_sid="CA" + "2" * 32)
            session.wait_for_ws_connect(5)
            old.ended()
            assert session.say("hello again").complete
            assert not session.is_disconnected
            new.hang_up()

    def test_resets_from_many_threads_during_hang_up(self) -> None:
        """A storm of resets while calls come and go: no exception, no thread left, the session still serves."""
        session = make()
        with exchange(session) as line_of:
            for number in range(10):
                line = line_of.connect(call_sid=f"CA{number:032d}")
                line_of.clock.sleep(0.15)
                resets = [line_of.thread(session.reset) for _ in range(4)]
                line.hang_up()
                for reset in resets:
                    reset.join()
                line_of.clock.sleep(0.5)
            line = line_of.connect(call_sid="CA" + "e" * 32)
            session.wait_for_ws_connect(5)
            assert session.say("still here").complete
            line.hang_up()

    def test_dataclass_subclasses_with_their_own_fields(self) -> None:
        """A consumer's dataclass with start() and shutdown(), and one whose __init__ forgets ours."""

        @dataclass
        class Telco(VoiceSession):
            queue: str = "support"

            def start(self) -> str:
                return self.queue

            def shutdown(self) -> None:
                raise AssertionError("never called by the runtime")

        class Forgetful(VoiceSession):
            def __init__(self, name: str) -> None:
                self.name = name

        assert Telco(queue="sales").start() == "sales"
        assert not Telco().is_disconnected
        session = Forgetful("x")
        session.tts_factory = speaking(ScriptedVoice())
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            assert session.say("hi").complete
            line.hang_up()
