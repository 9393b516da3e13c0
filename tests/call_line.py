"""A session on a line in virtual time: the real endpoint in a FastAPI app, Twilio's end of the stream, no sockets."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from fastapi import FastAPI

from voice_runtime.events import CallEvent, Word
from voice_runtime.session import VoiceSession
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.memory_wire import MemoryServer, MemoryWire
from voice_runtime.transports.mock_line import LineEnd, LineFaults, MediaLine
from voice_runtime.transports.twilio_ws import register_voice_websocket
from voice_runtime.tts import SpeechChunk, Synthesizer, SynthesizerCapabilities, SynthesizerTts

T = TypeVar("T")

URL = "wss://voice.example.com/voice"


class LoopThread:
    """An event loop in virtual time, in a thread of the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.loop = clock.new_event_loop()
        self._thread = clock.start_thread(self.loop.run_forever, "loop")

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = 3600) -> T:
        """The coroutine's result, waited for in virtual time."""
        done = self.clock.event()
        outcome: list[Any] = []

        async def wrapped() -> None:
            try:
                outcome.append((True, await coroutine))
            except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
                outcome.append((False, error))
            finally:
                done.set()

        self.loop.call_soon_threadsafe(lambda: setattr(self, "_task", self.loop.create_task(wrapped())))
        assert done.wait(timeout), "the coroutine did not end"
        good, value = outcome[0]
        if good:
            return value  # type: ignore[no-any-return]
        raise value

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The result of a plain function called on the loop."""

        async def run() -> T:
            return function(*args)

        return self.run(run())

    def close(self) -> None:
        async def leftovers() -> list[str]:
            await asyncio.sleep(6)  # whatever winds up has had its time
            return [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]

        left = self.run(leftovers())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        assert not left, f"tasks were left behind: {left}"


class Line:
    """One stream to the app. ``media`` is Twilio's end of it."""

    def __init__(self, loop: LoopThread, media: MediaLine, wire: MemoryWire, task: asyncio.Task[LineEnd]) -> None:
        self._loop = loop
        self.media = media
        self.wire = wire
        self.task = task

    def says(self, ulaw: bytes) -> None:
        self._loop.run(self.media.say(ulaw))

    def hang_up(self) -> None:
        self._loop.call(self.media.stop)

    def drop(self) -> None:
        """The connection breaks without a word."""
        self._loop.call(self.wire.abort)

    def send(self, text: str) -> None:
        self._loop.run(self.wire.send(text))

    @property
    def heard(self) -> bytes:
        """All audio that reached the caller's ear so far."""
        self._loop.call(self.media.sync)
        return self.media.heard.heard_ulaw()

    def ended(self, timeout: float = 60) -> LineEnd:
        async def wait() -> LineEnd:
            return await asyncio.wait_for(asyncio.shield(self.task), timeout)

        return self._loop.run(wait())


class Exchange:
    """Clock, loop and app; ``connect()`` is a call that comes in."""

    def __init__(self, clock: VirtualClock, loop: LoopThread, server: MemoryServer) -> None:
        self.clock = clock
        self.loop = loop
        self._server = server

    def connect(
        self, *, call_sid: str = "CA" + "1" * 32, faults: LineFaults | None = None, headers: Any = (), url: str = URL
    ) -> Line:
        async def dial() -> Line:
            wire = await self._server.connect(url, headers)
            assert isinstance(wire, MemoryWire), wire
            media = MediaLine(wire, call_sid=call_sid, faults=faults)
            return Line(self.loop, media, wire, asyncio.get_running_loop().create_task(media.run()))

        return self.loop.run(dial())

    def thread(self, work: Callable[[], Any]) -> Call:
        return Call(self.clock, work)


class Call:
    """Call code in a thread of the clock."""

    def __init__(self, clock: VirtualClock, work: Callable[[], Any]) -> None:
        self._clock = clock
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended_at: float | None = None

        def body() -> None:
            try:
                self.result = work()
            except BaseException as error:  # noqa: BLE001 - looked at by the test
                self.error = error
            self.ended_at = clock.monotonic()

        self._thread = clock.start_thread(body, "call code")

    def join(self, timeout: float = 600) -> Any:
        self._thread.join(timeout)
        assert self.ended_at is not None, "the call code did not end"
        if self.error is not None:
            raise self.error
        return self.result


@contextlib.contextmanager
def exchange(session: Any, **options: Any) -> Iterator[Exchange]:
    """An app with the session (or a class of sessions) at /voice."""
    with VirtualClock() as clock:
        loop = LoopThread(clock)
        app = FastAPI()
        if isinstance(session, VoiceSession):
            session.use_clock(clock)
        register_voice_websocket(app, session, clock=clock, **{"insecure": True, **options})
        server = MemoryServer(app)
        loop.run(server.__aenter__())
        try:
            yield Exchange(clock, loop, server)
        finally:
            loop.run(server.__aexit__(None, None, None))
            loop.close()


class ScriptedVoice(Synthesizer):
    """A voice whose audio the test can predict: per word a run of one byte value, ``word_ms`` long.

    ``pace`` seconds pass before each word is made; ``fail_after`` words it fails; ``stall_after`` it goes silent.
    """

    name = "scripted"
    capabilities = SynthesizerCapabilities(word_times=True)

    def __init__(
        self,
        *,
        word_ms: int = 300,
        pace: float = 0.0,
        fail_after: int = -1,
        stall_after: int = -1,
        words: bool = True,
    ) -> None:
        self.word_ms = word_ms
        self.pace = pace
        self.fail_after = fail_after
        self.stall_after = stall_after
        self.words = words
        self.cancelled = 0
        self.closed = 0
        self.made: list[str] = []

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        self.closed += 1

    def audio(self, text: str) -> bytes:
        return b"".join(self._word(n, word) for n, word in enumerate(text.split()))

    def _word(self, n: int, word: str) -> bytes:
        return bytes([(n * 7 + len(word)) % 120 + 1]) * (self.word_ms * 8)

    async def synthesize(self, text: str) -> AsyncGenerator[SpeechChunk, None]:
        try:
            for n, word in enumerate(text.split()):
                if n == self.fail_after:
                    raise ConnectionError("the voice is gone")
                if n == self.stall_after:
                    await asyncio.sleep(3600)
                if self.pace:
                    await asyncio.sleep(self.pace)
                self.made.append(word)
                at = n * self.word_ms
                words = (Word(text=word, start_ms=at, end_ms=at + self.word_ms),) if self.words else ()
                yield SpeechChunk(self._word(n, word), words)
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += 1
            raise


def speaking(voice: Synthesizer) -> Callable[[], SynthesizerTts]:
    return lambda: SynthesizerTts(voice)


class Recorder(list[CallEvent]):
    """Collects the events of a session."""

    def of(self, kind: type[CallEvent]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]
