"""The mouth: voices that fail, stall and refuse to stop, and others' turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.call_line import Recorder, ScriptedVoice, exchange, speaking
from voice_runtime.events import Outcome, SayFinished, SayStarted
from voice_runtime.exceptions import NotConnectedError, PlayoutFullError, ProviderError
from voice_runtime.mock.stt import MockStt
from voice_runtime.session import VoiceSession
from voice_runtime.tts import SpeechChunk, Synthesizer


class Told(MockStt):
    """Remembers what it was told of the agent's voice."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool] = []

    def set_speaking(self, speaking: bool) -> None:
        self.told.append(speaking)


def make(voice: Synthesizer | None = None) -> tuple[VoiceSession, Told]:
    session, stt = VoiceSession(), Told()
    session.stt_factory = lambda: stt
    session.tts_factory = speaking(voice or ScriptedVoice())
    return session, stt


def test_a_voice_that_failed_is_over() -> None:
    """Too long a recording, a sentence before the call: the recogniser is told of the end all the same."""
    session, stt = make()
    events = Recorder()
    session.subscribe(events.append)
    with exchange(session) as line_of:
        with pytest.raises(NotConnectedError):
            session.say("too early")
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        line_of.clock.sleep(0.1)
        with pytest.raises(PlayoutFullError):
            session.play(b"\x11" * 8000 * 601)
        assert session.say("after that").complete
        line.hang_up()
        line_of.clock.sleep(0.5)
    assert stt.told[-2:] == [True, False]
    assert stt.told.count(True) == stt.told.count(False)
    assert len(events.of(SayStarted)) == len(events.of(SayFinished))


def test_a_greeting_that_began_before_the_recogniser_is_told_to_it() -> None:
    """Otherwise its echo would be the caller's first words."""
    session, stt = VoiceSession(), Told()
    session.tts_factory = speaking(ScriptedVoice())
    with exchange(session) as line_of:

        def factory() -> Told:
            line_of.clock.sleep(0.4)
            return stt

        session.stt_factory = factory
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        session.say("welcome to the bank")
        assert stt.told == [True, False]
        line.hang_up()


def test_forty_seconds_are_heard_whole() -> None:
    """No cap on the length of an utterance."""
    voice = ScriptedVoice(word_ms=1000)
    session, _ = make(voice)
    text = " ".join(f"word{n}" for n in range(40))
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        result = session.say(text)
        assert (result.outcome, result.heard_ms) == (Outcome.PLAYED, 40_000)
        assert line.heard == voice.audio(text)
        line.hang_up()


class Odd(Synthesizer):
    """A voice with a fault."""

    name = "odd"

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.release = asyncio.Event()

    def synthesize(self, text: str) -> AsyncGenerator[SpeechChunk, None]:
        if self.fault == "raises at once":
            raise ValueError("no such text")
        return self._chunks()

    async def _chunks(self) -> AsyncGenerator[SpeechChunk, None]:
        if self.fault == "str":
            yield SpeechChunk("text")  # type: ignore[arg-type]
        if self.fault == "bytes instead of a chunk":
            yield b"\x11" * 160  # type: ignore[misc]
        if self.fault == "empty for ever":
            while True:
                await asyncio.sleep(0.1)
                yield SpeechChunk()
        if self.fault == "swallows its cancellation":
            while not self.release.is_set():
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    continue
        if self.fault == "bytearray":
            yield SpeechChunk(bytearray(b"\x11" * 1600))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fault", "says", "within"),
    [
        ("raises at once", "no such text", 0.2),
        ("str", "must be μ-law bytes", 0.2),
        ("bytes instead of a chunk", "words", 0.2),
        ("empty for ever", "no audio within 5 s", 5.5),
        ("swallows its cancellation", "no audio within 5 s", 6.5),
    ],
)
def test_faulty_voices_are_errors_in_time(fault: str, says: str, within: float) -> None:
    """And the next sentence is heard."""
    odd = Odd(fault)
    session, _ = make(odd)
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        began = line_of.clock.monotonic()
        with pytest.raises(ProviderError, match=says):
            session.say("hello there")
        assert line_of.clock.monotonic() - began <= within
        assert session.speak_with(ScriptedVoice(), "still here").complete
        line_of.loop.call(odd.release.set)
        line.hang_up()


def test_bytearrays_are_bytes() -> None:
    """From a voice, and from put_outbound_sync; anything else is refused at once."""
    session, _ = make(Odd("bytearray"))
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        assert session.say("x").heard_ms == 200
        session.put_outbound_sync(bytearray(b"\x12" * 160))
        with pytest.raises(TypeError, match="μ-law bytes"):
            session.put_outbound_sync("text")  # type: ignore[arg-type]
        session.hang_up()
        assert line.heard == b"\x11" * 1600 + b"\x12" * 160


def test_a_sentence_stopped_before_its_turn_cuts_nobody() -> None:
    """Its own outcome is interrupted, the one being said goes on."""
    session, _ = make(ScriptedVoice(pace=0.3))
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        first = line_of.thread(lambda: session.say("one two three four"))
        line_of.clock.sleep(0.1)
        stop = threading.Event()
        second = line_of.thread(lambda: session.say("five", stop_event=stop))
        line_of.clock.sleep(0.1)
        stop.set()
        assert second.join().outcome is Outcome.INTERRUPTED
        assert first.join().complete
        line.hang_up()


def test_three_threads_make_one_voice_and_it_is_closed() -> None:
    """However slow it is to make."""
    voices: list[ScriptedVoice] = []
    session = VoiceSession()
    with exchange(session) as line_of:

        def factory() -> Any:
            line_of.clock.sleep(1)
            voices.append(ScriptedVoice())
            return voices[-1]  # a bare synthesiser will do

        session.tts_factory = factory
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        calls = [line_of.thread(lambda n=n: session.say(f"hello {n}")) for n in range(3)]  # type: ignore[misc]
        assert all(call.join().complete for call in calls)
        line.hang_up()
        line_of.clock.sleep(1)
    assert [voice.closed for voice in voices] == [1]


def test_a_voice_that_only_speaks() -> None:
    """The documented protocol alone: what it puts is heard, measured and told."""

    class Speaker:
        on_error = None

        def speak(self, text: str, session: VoiceSession, stop_event: Any = None) -> Any:
            session.put_outbound_sync(b"\x21" * 8000)

    session, stt = make()
    session.tts_factory = Speaker  # type: ignore[assignment]
    events = Recorder()
    session.subscribe(events.append)
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        line_of.clock.sleep(0.1)
        result = session.say("beep")
        assert (result.outcome, result.heard_text, result.heard_ms) == (Outcome.PLAYED, "beep", 1000)
        assert line.heard == b"\x21" * 8000
        line.hang_up()
        line_of.clock.sleep(0.5)
    assert stt.told == [True, False]
    assert events.of(SayFinished)[0].heard_text == "beep"


def test_what_is_said_has_one_end_mark() -> None:
    """Whoever fills it ends it; nobody does so again."""
    from voice_runtime.events import MarkSettled

    session = VoiceSession()
    session.tts_factory = speaking(ScriptedVoice())
    events = Recorder()
    session.subscribe(events.append)
    with exchange(session) as line_of:
        line = line_of.connect()
        session.wait_for_ws_connect(5)
        assert session.say("one two three").complete
        assert session.play(b"\x21" * 1600).complete
        line_of.clock.sleep(0.5)
        assert [mark.label for mark in events.of(MarkSettled) if mark.label == "end"] == ["end", "end"]
        line.hang_up()
