"""The documented face of speech recognition, above a recogniser that does what the test says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from voice_runtime import registry
from voice_runtime.events import (
    Final,
    Interim,
    NoMatch,
    RecognitionEvent,
    RecognizerFailed,
    SpeechEnded,
    SpeechStarted,
)
from voice_runtime.exceptions import ProviderError, UnsupportedCapabilityError
from voice_runtime.stt import (
    Recognizer,
    RecognizerCapabilities,
    RecognizerStt,
    SttProvider,
    create_stt,
    dictation_unsupported,
    get_stt_class,
)
from voice_runtime.testing.clock import VirtualClock

FRAME = b"\x7f" * 160


class Scripted(Recognizer):
    """Says what the test emits through it, and notes what is done to it."""

    name = "scripted"
    capabilities = RecognizerCapabilities(dictation=True, interim=True)

    def __init__(self, *, language_code: str = "en") -> None:
        self.language_code = language_code
        self.fed: list[bytes] = []
        self.done: list[object] = []
        self.start_error: Exception | None = None
        self.feed_error: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.emit: Callable[[RecognitionEvent], None] = lambda event: None

    async def start(self, emit: Callable[[RecognitionEvent], None]) -> None:
        self.done.append("start")
        if self.gate is not None:
            await self.gate.wait()
        if self.start_error is not None:
            raise self.start_error
        self.emit = emit

    def feed(self, audio: bytes) -> None:
        if self.feed_error is not None:
            raise self.feed_error
        self.fed.append(audio)

    async def finalize(self) -> None:
        self.done.append("finalize")
        if self.feed_error is not None:
            raise self.feed_error

    async def expect(self, phrases: Sequence[str] | None, digits: int | None = None) -> None:
        self.done.append((phrases, digits))

    async def close(self) -> None:
        self.done.append("close")


class Heard:
    """What the callbacks of a face were called with."""

    def __init__(self, stt: RecognizerStt) -> None:
        self.committed: list[str] = []
        self.recognizing: list[str] = []
        self.errors: list[str] = []
        self.events: list[RecognitionEvent] = []
        stt.on_committed = self.committed.append
        stt.on_recognizing = self.recognizing.append
        stt.on_error = self.errors.append
        stt.on_event = self.events.append


@pytest.fixture
def recognizer() -> Scripted:
    return Scripted()


@pytest.fixture
def stt(recognizer: Scripted) -> RecognizerStt:
    return RecognizerStt(recognizer)


def final(text: str, start_ms: float, end_ms: float) -> Final:
    return Final(text=text, at_ms=start_ms, end_ms=end_ms)


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(10):
        await asyncio.sleep(0)


# -- audio in -----------------------------------------------------------------------------------------------------


async def test_an_old_stream_is_not_heard(stt: RecognizerStt, recognizer: Scripted) -> None:
    """Frames and the end of an earlier stream that are still in the queue are dropped by start."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    for old in (b"old", None, b"older"):
        queue.put_nowait(old)
    await stt.start(queue)
    queue.put_nowait(FRAME)
    queue.put_nowait(FRAME * 2)
    await settle()
    assert recognizer.fed == [FRAME, FRAME * 2]
    assert stt.fed_ms == 60.0
    await stt.stop()


async def test_frames_that_arrive_while_it_connects_are_kept(stt: RecognizerStt, recognizer: Scripted) -> None:
    """What the caller says while the provider connects is recognised."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    recognizer.gate = asyncio.Event()
    starting = asyncio.ensure_future(stt.start(queue))
    await settle()
    queue.put_nowait(FRAME)
    recognizer.gate.set()
    await starting
    await settle()
    assert recognizer.fed == [FRAME]
    await stt.stop()


async def test_the_end_of_the_stream_commits_what_was_said(stt: RecognizerStt, recognizer: Scripted) -> None:
    """None in the queue ends feeding and finalises."""
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    await stt.start(queue)
    queue.put_nowait(None)
    queue.put_nowait(FRAME)
    await settle()
    assert recognizer.done == ["start", "finalize"]
    assert recognizer.fed == []
    await stt.stop()


async def test_an_end_that_cannot_be_finalised_is_reported(stt: RecognizerStt, recognizer: Scripted) -> None:
    """A recogniser that fails on the last utterance is told to the call, and stops as usual."""
    heard = Heard(stt)
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    recognizer.feed_error = OSError("socket is gone")
    await stt.start(queue)
    queue.put_nowait(None)
    await settle()
    assert heard.errors == ["socket is gone"]
    await stt.stop()


async def test_it_can_be_fed_without_a_queue(stt: RecognizerStt, recognizer: Scripted) -> None:
    """feed() takes audio while it runs and ignores it before and after."""
    stt.feed(FRAME)
    await stt.start()
    stt.feed(FRAME)
    stt.feed(b"")
    await stt.stop()
    stt.feed(FRAME)
    assert recognizer.fed == [FRAME]


async def test_audio_that_cannot_be_taken_is_reported_once(stt: RecognizerStt, recognizer: Scripted) -> None:
    """A recogniser that raises on every frame makes one on_error, not fifty a second."""
    heard = Heard(stt)
    recognizer.feed_error = OSError("socket is gone")
    await stt.start()
    for _ in range(50):
        stt.feed(FRAME)
    assert heard.errors == ["socket is gone"]
    await stt.stop()


# -- events out ---------------------------------------------------------------------------------------------------


async def test_events_become_callbacks(stt: RecognizerStt, recognizer: Scripted) -> None:
    """Transcripts go to the documented callbacks, and everything goes to on_event."""
    heard = Heard(stt)
    await stt.start()
    said = [
        SpeechStarted(at_ms=100),
        Interim(text="hel", at_ms=100),
        SpeechEnded(at_ms=500),
        final("hello", 100, 500),
        final("  ", 600, 700),
        NoMatch(at_ms=900),
    ]
    for event in said:
        recognizer.emit(event)
    assert heard.committed == ["hello"]
    assert heard.recognizing == ["hel"]
    assert heard.events == said
    await stt.stop()


async def test_a_failing_callback_does_not_stop_recognition(
    stt: RecognizerStt, recognizer: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in any callback is logged with its traceback; the next transcript comes."""
    seen: list[str] = []

    def fail(what: object) -> None:
        seen.append(str(what))
        raise ZeroDivisionError("in user code")

    stt.on_committed = fail
    stt.on_event = fail
    await stt.start()
    recognizer.emit(final("one", 0, 1))
    recognizer.emit(final("two", 2, 3))
    assert [word for word in seen if word in ("one", "two")] == ["one", "two"]
    assert caplog.text.count("ZeroDivisionError: in user code") == 4
    await stt.stop()


async def test_callbacks_run_where_dispatch_puts_them(stt: RecognizerStt, recognizer: Scripted) -> None:
    """Callbacks wait for the dispatcher; on_event does not."""
    heard = Heard(stt)
    waiting: list[Callable[[], None]] = []
    stt.dispatch = waiting.append
    await stt.start()
    recognizer.emit(final("hello", 0, 1))
    assert (heard.committed, len(heard.events)) == ([], 1)
    thread = threading.Thread(target=waiting.pop())
    thread.start()
    thread.join()
    assert heard.committed == ["hello"]
    await stt.stop()


async def test_a_dispatcher_that_is_gone_is_survived(
    stt: RecognizerStt, recognizer: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    """A dispatch that raises loses the callback, with a log line, and nothing else."""
    heard = Heard(stt)

    def closed(callback: Callable[[], None]) -> None:
        raise RuntimeError("dispatcher closed")

    stt.dispatch = closed
    await stt.start()
    recognizer.emit(final("hello", 0, 1))
    assert "dispatcher closed" in caplog.text
    assert len(heard.events) == 1
    await stt.stop()


async def test_nothing_is_heard_after_stop(stt: RecognizerStt, recognizer: Scripted) -> None:
    """A recogniser that emits late, against its promise, does not reach the call."""
    heard = Heard(stt)
    await stt.start()
    late = recognizer.emit
    await stt.stop()
    late(final("too late", 0, 1))
    assert (heard.committed, heard.events) == ([], [])


@pytest.mark.parametrize("retryable", [True, False])
async def test_a_failure_is_reported_once(stt: RecognizerStt, recognizer: Scripted, retryable: bool) -> None:
    """on_error once, on_event every time."""
    heard = Heard(stt)
    await stt.start()
    for attempt in range(3):
        recognizer.emit(RecognizerFailed(at_ms=0, kind="connection", message=f"lost {attempt}", retryable=retryable))
    assert heard.errors == ["lost 0"]
    assert len(heard.events) == 3
    await stt.stop()


# -- echo ---------------------------------------------------------------------------------------------------------


def fed(stt: RecognizerStt, ms: float) -> None:
    """Feed until so much audio has gone in."""
    stt.feed(b"\xff" * round((ms - stt.fed_ms) * 8))


@pytest.mark.parametrize(
    ("start_ms", "end_ms", "echo"),
    [
        (1000, 2000, True),  # exactly the agent's speech
        (1500, 2400, True),  # its tail, up to 400 ms
        (1500, 2401, False),  # goes on for longer
        (999, 1500, False),  # began before the agent did
        (2100, 2300, True),  # nothing but tail
        (2500, 3000, False),  # long after
    ],
)
async def test_echo_is_judged_on_the_audio(
    stt: RecognizerStt, recognizer: Scripted, start_ms: float, end_ms: float, echo: bool
) -> None:
    """Speech entirely within the agent's, or 400 ms after, is its echo, however late the transcript comes."""
    heard = Heard(stt)
    await stt.start()
    fed(stt, 1000)
    stt.set_speaking(True)
    fed(stt, 2000)
    stt.set_speaking(False)
    fed(stt, 9000)
    event = final("hello", start_ms, end_ms)
    recognizer.emit(event)
    assert heard.committed == ([] if echo else ["hello"])
    assert heard.events == [event]
    assert stt.is_echo(event) is echo
    await stt.stop()


async def test_hypotheses_are_judged_up_to_now(stt: RecognizerStt, recognizer: Scripted) -> None:
    """An interim result of the agent's own voice is discarded while it speaks, and not once the caller goes on."""
    heard = Heard(stt)
    await stt.start()
    stt.set_speaking(True)
    fed(stt, 1000)
    recognizer.emit(Interim(text="echo", at_ms=500))
    stt.set_speaking(False)
    fed(stt, 1401)
    recognizer.emit(Interim(text="caller", at_ms=500))
    assert heard.recognizing == ["caller"]
    assert not stt.is_echo(SpeechStarted(at_ms=500))
    await stt.stop()


async def test_utterances_in_a_row_are_one_stretch(stt: RecognizerStt, recognizer: Scripted) -> None:
    """Echo that runs from one utterance of the agent into the next is still echo."""
    heard = Heard(stt)
    await stt.start()
    for begin in (1000, 2300):
        fed(stt, begin)
        stt.set_speaking(True)
        fed(stt, begin + 1000)
        stt.set_speaking(False)
    recognizer.emit(final("your table is booked", 1500, 3000))
    recognizer.emit(final("no", 3500, 3800))
    assert heard.committed == ["no"]
    await stt.stop()


# -- life ---------------------------------------------------------------------------------------------------------


async def test_a_failed_start_is_reported_and_raised(stt: RecognizerStt, recognizer: Scripted) -> None:
    """on_error and the exception; the recogniser was closed and it can be tried again."""
    heard = Heard(stt)
    recognizer.start_error = ProviderError("auth", "wrong key", provider="scripted")
    with pytest.raises(ProviderError, match="wrong key"):
        await stt.start()
    assert heard.errors == ["scripted: wrong key"]
    assert recognizer.done == ["start", "close"]
    recognizer.start_error = None
    await stt.start()
    await stt.stop()


def test_a_start_that_hangs_is_ended() -> None:
    """After ten seconds start gives up with a timeout that may be retried."""
    with VirtualClock() as clock:
        recognizer = Scripted()
        stt = RecognizerStt(recognizer)
        heard = Heard(stt)
        seen: list[tuple[str, bool, float]] = []

        async def call() -> None:
            recognizer.gate = asyncio.Event()
            try:
                await stt.start()
            except ProviderError as error:
                seen.append((error.kind, error.retryable, asyncio.get_running_loop().time()))

        loop = clock.new_event_loop()
        clock.start_thread(lambda: loop.run_until_complete(call()), "loop").join()
        loop.close()
    assert seen == [("timeout", True, 10.0)]
    assert len(heard.errors) == 1
    assert recognizer.done == ["start", "close"]


def test_a_close_that_hangs_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """stop returns after five seconds even when the provider never lets go."""

    class Stuck(Scripted):
        async def close(self) -> None:
            await asyncio.Event().wait()

    times: list[float] = []
    with VirtualClock() as clock:

        async def call() -> None:
            stt = RecognizerStt(Stuck())
            await stt.start()
            await stt.stop()
            times.append(asyncio.get_running_loop().time())

        loop = clock.new_event_loop()
        clock.start_thread(lambda: loop.run_until_complete(call()), "loop").join()
        loop.close()
    assert times == [5.0]
    assert "did not close cleanly" in caplog.text


async def test_stop_during_start(stt: RecognizerStt, recognizer: Scripted) -> None:
    """The call may end while the provider connects: start returns quietly and the recogniser is closed."""
    heard = Heard(stt)
    recognizer.gate = asyncio.Event()
    starting = asyncio.ensure_future(stt.start(asyncio.Queue()))
    await settle()
    await stt.stop()
    await starting
    assert recognizer.done == ["start", "close"]
    assert heard.errors == []


async def test_start_stop_start(stt: RecognizerStt, recognizer: Scripted) -> None:
    """A start that was stopped does not take the next one for its own."""
    recognizer.gate = asyncio.Event()
    first = asyncio.ensure_future(stt.start())
    await settle()
    await stt.stop()
    second = asyncio.ensure_future(stt.start())
    await settle()
    await first
    assert not second.done()
    recognizer.gate.set()
    await second
    stt.feed(FRAME)
    assert recognizer.fed == [FRAME]
    await stt.stop()
    assert recognizer.done == ["start", "close", "start", "close"]


async def test_cancelling_start_lets_go(stt: RecognizerStt, recognizer: Scripted) -> None:
    """A start that is cancelled closes the recogniser and is cancelled."""
    recognizer.gate = asyncio.Event()
    starting = asyncio.ensure_future(stt.start())
    await settle()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert recognizer.done == ["start", "close"]
    recognizer.gate = None
    await stt.start()
    await stt.stop()


async def test_stop_is_idempotent_and_may_be_called_twice_at_once(stt: RecognizerStt, recognizer: Scripted) -> None:
    """However often and from however many tasks: closed once."""
    await stt.stop()
    await stt.start(asyncio.Queue())
    await asyncio.gather(stt.stop(), stt.stop())
    await stt.stop()
    assert recognizer.done == ["start", "close"]


async def test_it_can_be_started_again(stt: RecognizerStt, recognizer: Scripted) -> None:
    """The next stream counts from zero; a second start without stop is refused."""
    await stt.start()
    stt.feed(FRAME)
    with pytest.raises(RuntimeError, match="running"):
        await stt.start()
    await stt.stop()
    await stt.start()
    assert stt.fed_ms == 0
    assert "running" in repr(stt)
    await stt.stop()


async def test_stop_leaves_no_task(stt: RecognizerStt) -> None:
    """After stop no task of ours is left on the loop."""
    before = asyncio.all_tasks()
    await stt.start(asyncio.Queue())
    await stt.stop()
    assert asyncio.all_tasks() == before


async def test_expect_and_finalize_reach_the_recognizer(stt: RecognizerStt, recognizer: Scripted) -> None:
    """expect works before the start too; finalize only while it runs."""
    await stt.expect(["yes", "no"])
    await stt.expect(None, digits=4)
    await stt.finalize()
    await stt.start()
    await stt.finalize()
    assert recognizer.done == [(["yes", "no"], None), (None, 4), "start", "finalize"]
    await stt.stop()


# -- by name ------------------------------------------------------------------------------------------------------


def test_create_passes_arguments_to_the_recognizer() -> None:
    """A registered recogniser gets the documented face, the same class each time; keyword arguments reach it."""
    registry.register_provider("stt", "scripted", f"{__name__}:Scripted")
    try:
        stt_class = get_stt_class("scripted")
        assert stt_class is get_stt_class("scripted")
        assert stt_class.__name__ == "Scripted" + "Stt"
        made = create_stt("scripted", language_code="fi")
        assert isinstance(made, RecognizerStt)
        assert isinstance(made, SttProvider)
        assert isinstance(made, stt_class)
        assert isinstance(made.recognizer, Scripted)
        assert made.recognizer.language_code == "fi"
        assert made.capabilities.dictation
        with pytest.raises(TypeError, match="tempo"):
            create_stt("scripted", tempo=1)
    finally:
        registry.unregister_provider("stt", "scripted")


def test_documented_providers_are_used_as_they_are() -> None:
    """A class that already has the documented face is not wrapped."""
    made = create_stt("mock", language_code="fi")
    assert type(made).__name__ == "MockStt"
    assert isinstance(made, SttProvider)


def test_dictation_error_says_what_to_do() -> None:
    """The error names the recogniser, what to pass instead, and how to get one that can."""
    error = dictation_unsupported("pocketsphinx")
    assert isinstance(error, UnsupportedCapabilityError)
    assert "'pocketsphinx'" in str(error)
    assert "expect=['yes', 'no']" in str(error)
    able = registry.provider_names("stt", ability="dictation")
    assert all(name in str(error) for name in able)
    assert able or "register_provider" in str(error)
