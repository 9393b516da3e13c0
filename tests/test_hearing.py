"""The ear: recognisers that come late, fail or stay away, and what listen() makes of what they understand."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.call_line import Exchange, Line, Recorder, ScriptedVoice, exchange, speaking
from voice_runtime.events import (
    CallerHeard,
    Final,
    NoMatch,
    RecognitionEvent,
    RecognitionFailed,
    RecognizerFailed,
    SpeechEnded,
    SpeechStarted,
)
from voice_runtime.exceptions import (
    CallHangupError,
    ConfigurationError,
    ProviderError,
    UnsupportedCapabilityError,
)
from voice_runtime.inbound import InboundQueue
from voice_runtime.mock.stt import MockStt
from voice_runtime.session import VoiceSession
from voice_runtime.stt import Recognizer, RecognizerCapabilities, RecognizerStt

WORD = 0x21  # what the scripted recogniser takes for speech; anything else is silence


class ScriptedRecognizer(Recognizer):
    """Hears runs of one byte value: 0x21 is "yes", 0x22 "no", 0x23 a word nobody expects. Its transcript comes
    ``late`` seconds after the run has ended, as those of real services do."""

    name = "scripted"

    def __init__(
        self, *, dictation: bool = True, late: float = 0.3, start: Callable[[], Any] | None = None, slow: float = 0.0
    ) -> None:
        self.capabilities = RecognizerCapabilities(dictation=dictation, phrases=True)
        self.words = {0x21: "yes", 0x22: "no", 0x23: "perhaps"}
        self.late = late
        self.fail_start = start
        self.slow = slow
        self.expected: list[Any] = []
        self.starts = self.closes = 0
        self.fed = b""

    async def start(self, emit: Callable[[RecognitionEvent], None]) -> None:
        self.starts += 1
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.fail_start is not None:
            raise self.fail_start()
        self._emit = emit
        self._run: tuple[int, int] | None = None
        self.fed = b""

    def feed(self, audio: bytes) -> None:
        for value in audio:
            at = len(self.fed)
            self.fed += bytes([value])
            if value in self.words and self._run is None:
                self._run = (value, at)
                self._emit(SpeechStarted(at_ms=at / 8))
            elif self._run is not None and value != self._run[0]:
                word, start = self._run
                self._run = None
                self._emit(SpeechEnded(at_ms=at / 8))
                asyncio.get_running_loop().call_later(self.late, self._final, self.words[word], start / 8, at / 8)

    def _final(self, text: str, start_ms: float, end_ms: float) -> None:
        expected = self.expected[-1] if self.expected else None
        if expected is not None and text not in expected and not self.capabilities.dictation:
            self._emit(NoMatch(at_ms=end_ms))
        else:
            self._emit(Final(at_ms=start_ms, end_ms=end_ms, text=text))

    async def finalize(self) -> None:
        pass

    async def expect(self, phrases: Sequence[str] | None, digits: int | None = None) -> None:
        if phrases is None and digits is None and not self.capabilities.dictation:
            raise UnsupportedCapabilityError("only what is expected")
        self.expected.append(phrases)

    async def close(self) -> None:
        self.closes += 1


def spoken(value: int, ms: int = 400) -> bytes:
    return bytes([value]) * (ms * 8)


def make(recognizer: Recognizer | None = None) -> tuple[VoiceSession, ScriptedRecognizer]:
    ear = recognizer or ScriptedRecognizer()
    assert isinstance(ear, ScriptedRecognizer)
    session = VoiceSession()
    session.stt_factory = lambda: RecognizerStt(ear)
    session.tts_factory = speaking(ScriptedVoice())
    return session, ear


def connected(line_of: Exchange, session: VoiceSession, **options: Any) -> Line:
    line = line_of.connect(**options)
    session.wait_for_ws_connect(5)
    line_of.clock.sleep(0.3)
    return line


class TestListen:
    """listen() and ask()."""

    def test_returns_what_was_said_and_where(self) -> None:
        """Text and the place of the speech on the caller's audio."""
        session, _ = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=5))
            line_of.clock.sleep(1)
            line.says(spoken(0x21))
            result = call.join()
            assert result
            assert (result.text, result.reason, str(result)) == ("yes", "speech", "yes")
            assert result.end_ms - result.start_ms == pytest.approx(400, abs=1)
            line.hang_up()

    def test_the_providers_own_listen(self) -> None:
        """speak, mark, clear_inbound, stt.listen(session, timeout): the order that 0.1.0 prints."""
        session, _ = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            session.send_mark_and_wait("after-question", timeout=10.0)
            session.clear_inbound()
            stt = session.stt
            assert isinstance(stt, RecognizerStt)
            call = line_of.thread(lambda: stt.listen(session, timeout=30))
            line_of.clock.sleep(0.5)
            line.says(spoken(0x21))
            assert call.join() == "yes"
            line.hang_up()

    def test_choice_is_the_expected_answer(self) -> None:
        """What was expected is told to the recogniser, and which of it was heard to the flow."""
        session, ear = make(ScriptedRecognizer(dictation=False))
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=5, expect=["yes", "no"]))
            line_of.clock.sleep(0.1)
            line.says(spoken(0x22))
            assert call.join().choice == "no"
            assert ear.expected == [["yes", "no"]]
            line.hang_up()

    @pytest.mark.parametrize("dictation", [True, False])
    def test_something_else_is_no_match(self, dictation: bool) -> None:
        """False, with the words where there are any."""
        session, _ = make(ScriptedRecognizer(dictation=dictation))
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=5, expect=["yes", "no"]))
            line_of.clock.sleep(0.1)
            line.says(spoken(0x23))
            result = call.join()
            assert not result
            assert (result.reason, result.choice) == ("no_match", None)
            assert result.text == ("perhaps" if dictation else "")
            line.hang_up()

    def test_silence_ends_it_after_the_timeout(self) -> None:
        """Exactly the seconds asked for."""
        session, _ = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            began = line_of.clock.monotonic()
            result = session.listen(timeout=4)
            assert line_of.clock.monotonic() - began == pytest.approx(4, abs=0.01)
            assert (bool(result), result.reason, result.text) == (False, "silence", "")
            line.hang_up()

    def test_a_sentence_under_way_is_heard_to_its_end(self) -> None:
        """The timeout is for the beginning; a transcript that comes late still counts."""
        session, _ = make(ScriptedRecognizer(late=1.8))
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=1))
            line_of.clock.sleep(0.8)
            line.says(spoken(0x21, 3000))
            assert call.join().text == "yes"
            line.hang_up()

    def test_what_was_said_before_does_not_count(self) -> None:
        """Only speech that ends after listen() began is an answer."""
        session, _ = make(ScriptedRecognizer(late=1.0))
        with exchange(session) as line_of:
            line = connected(line_of, session)
            line.says(spoken(0x21))
            line_of.clock.sleep(0.5)
            result = session.listen(timeout=3)
            assert result.reason == "silence"
            line.hang_up()

    def test_hang_up_ends_it_within_100_ms(self) -> None:
        """CallHangupError, not silence."""
        session, _ = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=30))
            line_of.clock.sleep(1)
            at = line_of.clock.monotonic()
            line.hang_up()
            with pytest.raises(CallHangupError):
                call.join()
            assert call.ended_at is not None
            assert call.ended_at - at <= 0.1

    def test_dictation_from_a_grammar_recogniser_is_refused(self) -> None:
        """The recogniser's own error reaches the flow."""
        session, _ = make(ScriptedRecognizer(dictation=False))
        with exchange(session) as line_of:
            line = connected(line_of, session)
            with pytest.raises(UnsupportedCapabilityError):
                session.listen()
            line.hang_up()

    @pytest.mark.parametrize("expect", ["yes", []])
    def test_expect_must_be_a_list(self, expect: Any) -> None:
        """A bare string would expect its letters."""
        session, _ = make()
        with pytest.raises(ValueError, match=r"\['yes', 'no'\]"):
            session.listen(expect=expect)

    def test_without_a_recogniser_it_says_what_to_do(self) -> None:
        """The error names the argument."""
        session = VoiceSession()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            with pytest.raises(ConfigurationError, match="stt_factory"):
                session.listen()
            line.hang_up()

    def test_ask_asks_again(self) -> None:
        """Nothing expected the first time, an answer the second."""
        session, _ = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.ask("yes or no", expect=["yes", "no"], timeout=2))
            line_of.clock.sleep(4.5)
            line.says(spoken(0x21))
            answer = call.join()
            assert answer.choice == "yes"
            assert line.heard == ScriptedVoice().audio("yes or no") * 2
            line.hang_up()

    def test_ask_gives_up_after_its_attempts(self) -> None:
        """A false result, not an exception: the flow decides."""
        session, _ = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            assert not session.ask("well", expect=["yes"], timeout=1, attempts=3)
            assert line.heard == ScriptedVoice().audio("well") * 3
            line.hang_up()


class TestLife:
    """When a recogniser is made, started and stopped."""

    def test_factory_assigned_to_a_live_stream_starts_at_once(self) -> None:
        """The order of the 0.1.0 example."""
        session = VoiceSession()
        ear = ScriptedRecognizer()
        heard: list[str] = []
        session.on_stt_ready = lambda stt: setattr(stt, "on_committed", heard.append)
        with exchange(session) as line_of:
            line = connected(line_of, session)
            session.stt_factory = lambda: RecognizerStt(ear)
            line_of.clock.sleep(0.2)
            line.says(spoken(0x21))
            line_of.clock.sleep(1)
            assert heard == ["yes"]
            line.hang_up()
            line_of.clock.sleep(1)
            assert (ear.starts, ear.closes) == (1, 1)

    def test_no_word_is_lost_while_the_recogniser_connects(self) -> None:
        """Audio waits in the queue until it is ready."""
        session, ear = make(ScriptedRecognizer(slow=2.0))
        with exchange(session) as line_of:
            line = line_of.connect()
            session.wait_for_ws_connect(5)
            line_of.clock.sleep(0.5)
            call = line_of.thread(lambda: session.listen(timeout=10))
            line.says(spoken(0x21))
            assert call.join().text == "yes"
            assert spoken(0x21) in ear.fed
            line.hang_up()

    def test_callbacks_may_speak(self) -> None:
        """on_committed runs on the call's own thread, so say() in it works and blocks nothing."""
        session, _ = make()
        answers: list[Any] = []
        threads: list[str] = []

        def ready(stt: Any) -> None:
            def committed(text: str) -> None:
                threads.append(threading.current_thread().name)
                answers.append(session.say(f"you said {text}"))

            stt.on_committed = committed

        session.on_stt_ready = ready
        with exchange(session) as line_of:
            line = connected(line_of, session)
            line.says(spoken(0x21))
            line_of.clock.sleep(3)
            assert [answer.complete for answer in answers] == [True]
            assert threads[0].startswith("call-callbacks")
            line.hang_up()

    def test_a_recogniser_that_cannot_start_is_told_and_leaks_nothing(self) -> None:
        """on_error, an event, an error from listen(); the call goes on, and the exchange checks for tasks."""
        session, _ = make(ScriptedRecognizer(start=lambda: ProviderError("auth", "bad key", provider="scripted")))
        errors: list[str] = []
        events = Recorder()
        session.subscribe(events.append)
        session.on_stt_ready = lambda stt: setattr(stt, "on_error", errors.append)
        with exchange(session) as line_of:
            line = connected(line_of, session)
            with pytest.raises(ProviderError, match="bad key"):
                session.listen(timeout=5)
            assert session.say("still talking").complete
            line.hang_up()
            line_of.clock.sleep(1)
        assert errors == ["scripted: bad key"]
        assert len(events.of(RecognitionFailed)) == 1

    def test_a_factory_that_raises_is_told(self) -> None:
        """The same for an SDK that is not installed."""
        session = VoiceSession()

        def factory() -> Any:
            raise ImportError("no such package")

        session.stt_factory = factory
        with exchange(session) as line_of:
            line = connected(line_of, session)
            with pytest.raises(ProviderError, match="no such package"):
                session.listen(timeout=5)
            line.hang_up()

    def test_a_recogniser_that_dies_mid_call(self) -> None:
        """listen() under way raises; the flow is not left waiting."""
        session, ear = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=30))
            line_of.clock.sleep(1)
            line_of.loop.call(
                lambda: ear._emit(RecognizerFailed(at_ms=0, kind="quota", message="used up", retryable=False))
            )
            with pytest.raises(ProviderError, match="used up") as caught:
                call.join()
            assert caught.value.kind == "quota"
            line.hang_up()

    def test_two_calls_on_one_session_each_get_their_recogniser(self) -> None:
        """Frames, sentinels and transcripts of the first do not reach the second, without any reset()."""
        ears: list[ScriptedRecognizer] = []

        def factory() -> RecognizerStt:
            ears.append(ScriptedRecognizer())
            return RecognizerStt(ears[-1])

        session = VoiceSession()
        session.stt_factory = factory
        with exchange(session) as line_of:
            for number in (1, 2):
                line = connected(line_of, session, call_sid=f"CA{number:032d}")
                line_of.clock.sleep(0.2)
                call = line_of.thread(lambda: session.listen(timeout=5))
                line_of.clock.sleep(0.1)
                line.says(spoken(0x21))
                assert call.join().text == "yes"
                line.hang_up()
                line_of.clock.sleep(1)
        assert [(ear.starts, ear.closes) for ear in ears] == [(1, 1), (1, 1)]

    def test_the_agents_own_echo_is_not_an_answer(self) -> None:
        """Our own words that lie within our speech on the audio are not the caller's, however late they come."""
        session, _ = make(ScriptedRecognizer(late=1.5))
        events = Recorder()
        session.subscribe(events.append)
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.say("say yes or say no"))
            line_of.clock.sleep(0.3)
            line.says(spoken(0x21))
            call.join()
            assert session.listen(timeout=3).reason == "silence"
            line.hang_up()
        assert events.of(CallerHeard) == []

    @pytest.mark.parametrize("dictation", [True, False])
    def test_an_answer_into_the_question_counts(self, dictation: bool) -> None:
        """People do not wait for the end of a question they know."""
        session, _ = make(ScriptedRecognizer(dictation=dictation))
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.ask("shall I book it for you", expect=["yes", "no"], timeout=3))
            line_of.clock.sleep(1.6)
            line.says(spoken(0x21))  # ends after the question, begins before
            assert call.join().choice == "yes"
            assert line.heard == ScriptedVoice().audio("shall I book it for you")
            line.hang_up()

    def test_a_provider_of_ones_own_plugs_in(self) -> None:
        """The documented protocol alone: three callbacks, start, stop."""
        session = VoiceSession()
        stt = MockStt()
        heard: list[str] = []
        session.stt_factory = lambda: stt
        session.on_stt_ready = lambda made: setattr(made, "on_committed", heard.append)
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=5, expect=["blue"]))
            line_of.clock.sleep(0.5)
            stt.inject("Blue, please!")
            assert call.join().choice == "blue"
            line.hang_up()
            line_of.clock.sleep(0.5)
        assert heard == ["Blue, please!"]
        assert not stt.started

    def test_secondary_hears_the_same_and_decides_nothing(self) -> None:
        """stt_secondary_factory: both get the audio, the first one's transcripts count."""
        session, first = make()
        second = ScriptedRecognizer()
        second.words = {0x21: "guess"}
        session.stt_secondary_factory = lambda: RecognizerStt(second)
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=5))
            line_of.clock.sleep(0.2)
            line.says(spoken(0x21))
            assert call.join().text == "yes"
            assert spoken(0x21) in second.fed
            line.hang_up()
            line_of.clock.sleep(1)
        assert (first.closes, second.closes) == (1, 1)

    def test_a_slow_factory_stops_no_other_call(self) -> None:
        """It runs in a worker thread: the loop goes on meanwhile."""
        session = VoiceSession()
        made_on: list[str] = []

        def factory() -> MockStt:
            made_on.append(threading.current_thread().name)
            time.sleep(0.05)
            return MockStt()

        session.stt_factory = factory
        with exchange(session) as line_of:
            line = connected(line_of, session)
            line_of.clock.sleep(0.5)
            line.hang_up()
        assert made_on
        assert made_on[0] != "loop"


class TestInbound:
    """The bounded queue of the caller's frames."""

    async def test_thirty_seconds_then_the_oldest_goes(self) -> None:
        """Nobody takes the frames: memory stays, the loss is counted."""
        inbound = InboundQueue()
        for n in range(2000):
            inbound.push(n.to_bytes(2, "big"))
        assert inbound.qsize() == 1500
        assert inbound.dropped == 500
        assert await inbound.get() == (500).to_bytes(2, "big")

    def test_clear_inbound_forgets_frames_and_transcripts(self) -> None:
        """speak, mark, clear_inbound, listen: the documented order starts from nothing."""
        session, _ = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            line.says(spoken(0x21))
            line_of.clock.sleep(1)
            session.clear_inbound()
            line_of.clock.sleep(0.05)
            assert session.inbound.qsize() <= 3
            assert session.listen(timeout=1).reason == "silence"
            line.hang_up()

    def test_put_inbound_works_from_any_thread(self) -> None:
        """A transport of one's own feeds frames."""
        session = VoiceSession()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            before = session.live.hearing.audio_ms
            line_of.thread(lambda: session.put_inbound(b"\x01" * 160)).join()
            line_of.clock.sleep(0)
            line_of.loop.call(lambda: None)
            assert session.live.hearing.audio_ms >= before + 20
            line.hang_up()


class TestTrouble:
    """Recognisers that are not what they should be."""

    def test_a_secondary_that_cannot_be_made_disturbs_nobody(self, caplog: pytest.LogCaptureFixture) -> None:
        """The call goes on with the primary alone."""
        session, _ = make()

        def factory() -> Any:
            raise ProviderError("auth", "no key for the secondary")

        session.stt_secondary_factory = factory
        with exchange(session) as line_of:
            line = connected(line_of, session)
            call = line_of.thread(lambda: session.listen(timeout=5))
            line_of.clock.sleep(0.2)
            line.says(spoken(0x21))
            assert call.join().text == "yes"
            line.hang_up()
        assert "no key for the secondary" in caplog.text
        caplog.clear()

    def test_a_new_factory_after_a_failure_is_a_new_chance(self) -> None:
        """Assigned on the live call, it starts."""
        session, _ = make(ScriptedRecognizer(start=lambda: ProviderError("auth", "bad key")))
        with exchange(session) as line_of:
            line = connected(line_of, session)
            with pytest.raises(ProviderError):
                session.listen(timeout=2)
            session.stt_factory = lambda: ScriptedRecognizer()  # type: ignore[assignment]
            line_of.clock.sleep(0.2)
            call = line_of.thread(lambda: session.listen(timeout=5))
            line_of.clock.sleep(0.2)
            line.says(spoken(0x22))
            assert call.join().text == "no"
            line.hang_up()

    def test_a_stop_that_raises_its_cancellation_leaves_nothing(self) -> None:
        """The usual way to stop a task of one's own, without the usual except."""

        class Clumsy(MockStt):
            async def stop(self) -> None:
                task = asyncio.get_running_loop().create_task(asyncio.sleep(100))
                await asyncio.sleep(0)
                task.cancel()
                await task

        voice = ScriptedVoice()
        session = VoiceSession()
        session.stt_factory = Clumsy
        session.tts_factory = speaking(voice)
        with exchange(session) as line_of:
            line = connected(line_of, session)
            session.say("hello")
            line.hang_up()
            line_of.clock.sleep(7)
        assert voice.closed == 1

    def test_an_expectation_nobody_takes_has_a_deadline(self) -> None:
        """A recogniser that hangs in expect() is an error of its own, not a TimeoutError from inside."""

        class Deaf(ScriptedRecognizer):
            async def expect(self, phrases: Sequence[str] | None, digits: int | None = None) -> None:
                await asyncio.sleep(100)

        session, _ = make(Deaf())
        with exchange(session) as line_of:
            line = connected(line_of, session)
            with pytest.raises(ProviderError, match="15 s"):
                session.listen(expect=["yes"])
            line.hang_up()

    def test_two_listeners_never_take_the_same(self) -> None:
        """Nor trip over each other, or over clear_inbound()."""
        session, ear = make()
        with exchange(session) as line_of:
            line = connected(line_of, session)
            calls = [line_of.thread(lambda: session.listen(timeout=4)) for _ in range(6)]
            line_of.clock.sleep(0.2)
            for n in range(3):
                line_of.loop.call(ear._final, f"word {n}", 1e6 + n, 1e6 + n + 1)
            session.clear_inbound()
            results = [call.join() for call in calls]
            said = [result.text for result in results if result]
            assert len(said) == len(set(said)) <= 3
            line.hang_up()
