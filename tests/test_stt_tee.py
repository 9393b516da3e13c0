"""One stream, two recognisers; the secondary can do nothing to the call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from voice_runtime import stt_tee
from voice_runtime.events import Final, RecognitionEvent
from voice_runtime.exceptions import ProviderError, UnsupportedCapabilityError
from voice_runtime.mock.stt import MockStt
from voice_runtime.stt import Recognizer, RecognizerCapabilities, RecognizerStt, SttProvider
from voice_runtime.stt_tee import SttTee


class Ear(Recognizer):
    """A recogniser that keeps what it was fed and fails where it is told to."""

    name = "ear"
    capabilities = RecognizerCapabilities(phrases=True)

    def __init__(self, *fails: str) -> None:
        self.fails = fails
        self.fed: list[bytes] = []
        self.done: list[Any] = []
        self.emit: Callable[[RecognitionEvent], None] = lambda event: None

    def _do(self, verb: str, *facts: Any) -> None:
        self.done.append((verb, *facts))
        if verb in self.fails:
            raise ProviderError("unavailable", f"{verb} failed", provider="ear")

    async def start(self, emit: Callable[[RecognitionEvent], None]) -> None:
        self.emit = emit
        self._do("start")

    def feed(self, audio: bytes) -> None:
        self.fed.append(audio)
        if "feed" in self.fails:
            raise ProviderError("connection", "feed failed", provider="ear")

    async def finalize(self) -> None:
        self._do("finalize")

    async def expect(self, phrases: Sequence[str] | None, digits: int | None = None) -> None:
        self._do("expect", phrases, digits)

    async def close(self) -> None:
        self._do("close")


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def pair(*fails: str) -> tuple[SttTee, Ear, Ear]:
    """A tee, its primary, and its secondary that fails at ``fails``."""
    first, second = Ear(), Ear(*fails)
    return SttTee(primary=RecognizerStt(first), secondary=RecognizerStt(second)), first, second


FRAMES = [bytes([value]) * 160 for value in range(5)]


async def run(tee: SttTee) -> asyncio.Queue[bytes | None]:
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    queue.put_nowait(b"of an earlier stream")
    queue.put_nowait(None)
    await tee.start(queue)
    for frame in FRAMES:
        queue.put_nowait(frame)
    await settle()
    return queue


async def test_both_get_the_same_frames() -> None:
    """Each frame once to either, without those of an earlier stream; the end reaches both."""
    tee, first, second = pair()
    queue = await run(tee)
    assert first.fed == second.fed == FRAMES
    queue.put_nowait(None)
    await settle()
    assert ("finalize",) in first.done
    assert ("finalize",) in second.done
    await tee.stop()
    assert first.done[-1] == second.done[-1] == ("close",)


async def test_only_the_primary_is_heard(caplog: pytest.LogCaptureFixture) -> None:
    """The call gets the primary's transcripts; the secondary's are kept and logged at debug."""
    caplog.set_level(logging.DEBUG, logger="voice_runtime.stt_tee")
    tee, first, second = pair()
    committed: list[str] = []
    events: list[RecognitionEvent] = []
    tee.on_committed = committed.append
    tee.on_event = events.append
    await run(tee)
    first.emit(Final(text="yes", at_ms=0, end_ms=100))
    second.emit(Final(text="jazz", at_ms=0, end_ms=100))
    assert committed == ["yes"]
    assert [event.text for event in events if isinstance(event, Final)] == ["yes"]
    assert list(tee.secondary_transcripts) == ["jazz"]
    assert "jazz" in caplog.text
    await tee.stop()


@pytest.mark.parametrize("fails", ["start", "feed", "finalize", "expect", "close"])
async def test_the_secondary_never_disturbs_the_call(fails: str) -> None:
    """Whatever it fails at, the primary is started, fed, told and stopped; failures are counted."""
    tee, first, second = pair(fails)
    errors: list[str] = []
    tee.on_error = errors.append
    await run(tee)
    await tee.expect(["yes"])
    await tee.finalize()
    await settle()
    await tee.stop()
    assert first.fed == FRAMES
    assert first.done == [("start",), ("expect", ["yes"], None), ("finalize",), ("close",)]
    assert errors == []
    assert ("start",) in second.done
    assert (tee.secondary_errors > 0) is (fails != "close")  # the face keeps a failing close to itself


async def test_a_secondary_that_raises_everywhere_is_survived() -> None:
    """A provider of one's own whose methods all raise is counted, and the call goes on."""

    class Broken(MockStt):
        def set_speaking(self, speaking: bool) -> None:
            raise LookupError

        async def start(self, inbound_queue: asyncio.Queue[bytes | None]) -> None:
            raise LookupError

        async def stop(self) -> None:
            raise LookupError

    first = Ear()
    tee = SttTee(primary=RecognizerStt(first), secondary=Broken())
    await run(tee)
    tee.set_speaking(True)
    await tee.stop()
    assert first.fed == FRAMES
    assert tee.secondary_errors >= 3


async def test_a_primary_that_cannot_start_is_raised() -> None:
    """The primary's failure is the call's; the secondary is stopped again."""
    second = Ear()
    tee = SttTee(primary=RecognizerStt(Ear("start")), secondary=RecognizerStt(second))
    before = asyncio.all_tasks()
    with pytest.raises(ProviderError, match="start failed"):
        await tee.start(asyncio.Queue())
    assert second.done == [] or second.done[-1] == ("close",)
    assert asyncio.all_tasks() == before


async def test_a_slow_secondary_loses_its_oldest_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its queue is bounded: the oldest go, counted, and the primary loses none."""
    monkeypatch.setattr(stt_tee, "QUEUE_FRAMES", 3)
    taken: list[asyncio.Queue[bytes | None]] = []

    class Slow(MockStt):
        async def start(self, inbound_queue: asyncio.Queue[bytes | None]) -> None:
            taken.append(inbound_queue)

    first = Ear()
    tee = SttTee(primary=RecognizerStt(first), secondary=Slow())
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    await tee.start(queue)
    for frame in FRAMES:
        queue.put_nowait(frame)
        await settle()
    assert first.fed == FRAMES
    assert tee.dropped_frames == 2
    assert [taken[0].get_nowait() for _ in range(3)] == FRAMES[2:]
    await tee.stop()


async def test_it_has_what_its_primary_has() -> None:
    """Capabilities, recogniser, echo and dispatch are the primary's, and missing where it lacks them."""
    tee, first, _ = pair()
    assert isinstance(tee, SttProvider)
    assert tee.capabilities is first.capabilities
    assert tee.recognizer is first
    calls: list[Callable[[], None]] = []
    tee.dispatch = calls.append
    assert tee.primary.dispatch == calls.append
    await tee.start(asyncio.Queue())
    tee.set_speaking(True)
    assert tee.is_echo(Final(text="x", at_ms=10, end_ms=20))
    await tee.stop()

    plain = SttTee(primary=MockStt(), secondary=MockStt())
    assert isinstance(plain, SttProvider)
    assert plain.capabilities.dictation
    assert plain.recognizer is None
    assert not plain.is_echo(Final(text="x", at_ms=10, end_ms=20))
    assert not any(hasattr(plain, name) for name in ("on_event", "dispatch", "expect", "finalize"))


async def test_callbacks_are_the_primarys() -> None:
    """Setting a callback sets the primary's; the secondary's stay our own."""
    first, second = MockStt(), MockStt()
    tee = SttTee(primary=first, secondary=second)
    heard: list[str] = []
    tee.on_committed = tee.on_recognizing = tee.on_error = heard.append
    assert tee.on_committed == tee.on_recognizing == tee.on_error == heard.append
    first.inject("one")
    first.inject_interim("two")
    first.fail("three")
    second.inject("four")
    second.fail("five")
    assert heard == ["one", "two", "three"]
    assert list(tee.secondary_transcripts) == ["four"]
    assert tee.secondary_errors == 1


async def test_a_start_that_runs_for_the_whole_call_is_fed() -> None:
    """A provider of one's own whose start returns only at the end gets its frames all the same."""

    class Loop(MockStt):
        def __init__(self) -> None:
            super().__init__()
            self.taken: list[bytes] = []

        async def start(self, inbound_queue: asyncio.Queue[bytes | None]) -> None:
            while (frame := await inbound_queue.get()) is not None:
                self.taken.append(frame)

    first, second = Loop(), Loop()
    tee = SttTee(primary=first, secondary=second)
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    starting = asyncio.ensure_future(tee.start(queue))
    await settle()
    for frame in FRAMES:
        queue.put_nowait(frame)
    queue.put_nowait(None)
    await starting
    await settle()
    await tee.stop()
    assert first.taken == second.taken == FRAMES


async def test_what_the_primary_cannot_do_is_raised() -> None:
    """expect raises the primary's refusal and does not ask the secondary."""

    class Deaf(Ear):
        async def expect(self, phrases: Sequence[str] | None, digits: int | None = None) -> None:
            raise UnsupportedCapabilityError("cannot")

    second = Ear()
    tee = SttTee(primary=RecognizerStt(Deaf()), secondary=RecognizerStt(second))
    with pytest.raises(UnsupportedCapabilityError):
        await tee.expect(None)
    assert second.done == []


async def test_it_can_be_started_again() -> None:
    """stop twice, start again: both run anew."""
    tee, first, second = pair()
    await run(tee)
    await tee.stop()
    await tee.stop()
    await run(tee)
    await tee.stop()
    assert first.fed == second.fed == FRAMES * 2
