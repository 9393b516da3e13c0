"""Expected answers recognised by the real decoder in a real process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("pocketsphinx", reason="the extra local is not installed")

from voice_runtime.events import (
    Final,
    NoMatch,
    RecognitionEvent,
    RecognizerFailed,
    SpeechEnded,
    SpeechStarted,
)
from voice_runtime.exceptions import ConfigurationError, ProviderError, UnsupportedCapabilityError
from voice_runtime.providers import pocketsphinx_stt
from voice_runtime.providers.pocketsphinx_grammar import expectation_of
from voice_runtime.providers.pocketsphinx_stt import PocketsphinxRecognizer
from voice_runtime.providers.pocketsphinx_worker import WorkerPool
from voice_runtime.stt import RecognizerStt, create_stt
from voice_runtime.testing.clock import VirtualClock

SILENCE = b"\xff" * 8000


@pytest.fixture(scope="module")
def workers() -> Iterator[WorkerPool]:
    """Workers of this module alone, ended after it."""
    pool = WorkerPool(2)
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def _use_workers(workers: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocketsphinx_stt, "pool", workers)


class Call:
    """A recogniser and everything it told."""

    def __init__(self, **options: Any) -> None:
        self.recognizer = PocketsphinxRecognizer(**options)
        self.events: list[RecognitionEvent] = []

    async def __aenter__(self) -> Call:
        await self.recognizer.start(self.events.append)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.recognizer.close()

    def hears(self, audio: bytes, size: int = 160) -> None:
        for at in range(0, len(audio), size):
            self.recognizer.feed(audio[at : at + size])

    @property
    def answers(self) -> list[str | None]:
        """What was understood, None for no match."""
        return [
            event.text if isinstance(event, Final) else None
            for event in self.events
            if isinstance(event, Final | NoMatch)
        ]


async def understood(
    audio: bytes, expect: Sequence[str] | None = None, digits: int | None = None
) -> list[str | None]:
    async with Call(expect=expect, digits=digits) as call:
        call.hears(SILENCE + audio + SILENCE)
        await call.recognizer.finalize()
        return call.answers


# -- it recognises ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("voice", ["rms", "slt"])
@pytest.mark.parametrize(
    ("said", "answer"),
    [("yes", "yes"), ("no", "no"), ("yes please", "yes"), ("no thank you", "no"), ("well yes", "yes")],
)
async def test_yes_and_no(flite: Callable[..., bytes], voice: str, said: str, answer: str) -> None:
    """With politeness around it, in voices that are not the espeak of our own demo."""
    assert await understood(flite(said, voice), ["yes", "no"]) == [answer]


@pytest.mark.parametrize(
    ("said", "expect"),
    [
        ("orange juice", ["coffee", "tea", "orange juice", "water"]),
        ("billing please", ["sales", "support", "billing"]),
        ("wednesday", ["monday", "tuesday", "wednesday", "thursday", "friday"]),
    ],
)
async def test_menus(flite: Callable[..., bytes], said: str, expect: list[str]) -> None:
    """One of several phrases; the answer is the phrase as it was given."""
    given = [phrase.title() for phrase in expect]
    assert await understood(flite(said, "rms"), given) == [said.removesuffix(" please").title()]


@pytest.mark.parametrize("said", ["yes", "no", "yes please", "no thank you", "okay yes please"])
async def test_a_simulated_caller_is_understood(said: str) -> None:
    """The voice that plays the caller in the demo: espeak, en-us, 130 words per minute."""
    pytest.importorskip("espeakng_loader")
    from voice_runtime.providers.espeak_tts import EspeakSynthesizer

    voice = EspeakSynthesizer(voice="en-us", rate=130)
    audio = b"".join([chunk.audio async for chunk in voice.synthesize(said)])
    assert await understood(audio, ["yes", "no"]) == ["yes" if "yes" in said else "no"]


async def test_human_prompts(prompt: Callable[[str], bytes]) -> None:
    """Recorded human speech among prompts of the same kind: nine of ten at least."""
    prompts = {
        "vm-goodbye": "goodbye",
        "cannot-complete-as-dialed": "your call cannot be completed as dialed",
        "agent-loginok": "agent logged in",
        "agent-loggedoff": "agent logged off",
        "conf-muted": "you are now muted",
        "conf-locked": "this conference is locked",
        "vm-nomore": "no more messages",
        "vm-deleted": "message deleted",
        "vm-sorry": "I'm sorry I did not understand your response",
        "conf-onlyperson": "you are currently the only person in this conference",
    }
    expect = list(prompts.values())
    wrong = [name for name, text in prompts.items() if await understood(prompt(name), expect) != [text]]
    assert len(wrong) <= 1, wrong


async def test_single_digits(prompt: Callable[[str], bytes]) -> None:
    """Human single digits: eight of ten at least, and never anything but a digit."""
    heard = [await understood(prompt(f"digits/{digit}"), digits=1) for digit in range(10)]
    assert sum(answer == [str(digit)] for digit, answer in enumerate(heard)) >= 8
    assert all(len(answer) <= 1 for answer in heard)


async def test_a_number_of_digits(flite: Callable[..., bytes]) -> None:
    """Four digits in one breath are four figures."""
    assert await understood(flite("one two three four", "rms"), digits=4) == ["1234"]


# -- where and when -----------------------------------------------------------------------------------------------


async def test_events_stand_where_the_speech_was(flite: Callable[..., bytes]) -> None:
    """Start, end and transcript carry the position of the speech on the audio fed, in pieces of any size."""
    speech = flite("yes", "rms")
    for size in (160, 1, 977):
        async with Call(expect=["yes", "no"]) as call:
            call.hears(SILENCE + speech + SILENCE + speech + SILENCE, size)
            await call.recognizer.finalize()
        kinds = [type(event) for event in call.events if isinstance(event, SpeechStarted | SpeechEnded)]
        assert kinds == [SpeechStarted, SpeechEnded] * 2
        finals = [event for event in call.events if isinstance(event, Final)]
        for number, final in enumerate(finals):
            begin = 1000 + number * (1000 + len(speech) / 8)
            assert begin - 50 <= final.at_ms <= begin + 300
            assert final.at_ms < final.end_ms <= begin + len(speech) / 8 + 200
        assert [final.text for final in finals] == ["yes", "yes"]
        assert finals[0].confidence is None


async def test_speech_of_before_start_does_not_count(flite: Callable[..., bytes]) -> None:
    """A second stream begins at zero and knows nothing of the first one's half utterance."""
    call = Call(expect=["yes", "no"])
    async with call:
        call.hears(SILENCE + flite("yes", "rms"))
    call.recognizer.feed(SILENCE)
    call.events.clear()
    async with call:
        call.hears(SILENCE + flite("no", "rms") + SILENCE)
        await call.recognizer.finalize()
    assert call.answers == ["no"]
    assert call.events[0].at_ms == pytest.approx(1100, abs=200)


async def test_finalize_does_not_wait_for_silence(flite: Callable[..., bytes]) -> None:
    """What was said so far is read at once, and told before finalize returns."""
    async with Call(expect=["yes", "no"]) as call:
        call.hears(SILENCE + flite("yes", "rms"))
        assert call.answers == []
        await call.recognizer.finalize()
        assert call.answers == ["yes"]


async def test_silence_decides_when_the_caller_is_done(flite: Callable[..., bytes]) -> None:
    """silence_ms longer than the pause makes one utterance of two words."""
    audio = SILENCE + flite("yes", "rms") + b"\xff" * 4800 + flite("please", "rms") + SILENCE * 2
    for silence_ms, utterances in ((300, 2), (1500, 1)):
        async with Call(expect=["yes", "no"], silence_ms=silence_ms) as call:
            call.hears(audio)
            await call.recognizer.finalize()
        assert sum(isinstance(event, SpeechEnded) for event in call.events) == utterances
        assert len(call.answers) == utterances


async def test_endless_speech_is_cut(prompt: Callable[[str], bytes]) -> None:
    """Nobody speaks longer than max_utterance_ms: what there is is read and the rest is another utterance."""
    async with Call(expect=["goodbye"], max_utterance_ms=2000) as call:
        call.hears(prompt("basic-pbx-ivr-main")[:48_000] + SILENCE)
        await call.recognizer.finalize()
    starts = [event.at_ms for event in call.events if isinstance(event, SpeechStarted)]
    ends = [event.at_ms for event in call.events if isinstance(event, SpeechEnded)]
    assert len(ends) >= 2
    assert all(end - start <= 2000 for start, end in zip(starts, ends, strict=True))


async def test_no_time_passes_on_a_virtual_clock(flite: Callable[..., bytes]) -> None:
    """The work in the other process holds virtual time, so a test is as exact as without it."""
    speech = flite("yes", "rms")
    found: list[tuple[float, list[str | None]]] = []

    def run() -> None:
        with VirtualClock() as clock:

            async def call() -> None:
                answers = await understood(speech, ["yes", "no"])
                found.append((asyncio.get_running_loop().time(), answers))

            loop = clock.new_event_loop()
            clock.start_thread(lambda: loop.run_until_complete(call()), "loop").join()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(0.0, ["yes"])]


async def test_the_event_loop_is_free_meanwhile(flite: Callable[..., bytes]) -> None:
    """While an utterance is read the loop goes round and round."""
    async with Call(digits=8) as call:
        call.hears(SILENCE + flite("one two three four five six seven eight", "rms") + SILENCE)
        reading = asyncio.ensure_future(call.recognizer.finalize())
        turns = 0
        while not reading.done():
            await asyncio.sleep(0.001)
            turns += 1
        assert turns > 10
        assert len(call.answers) == 1


# -- what is expected ---------------------------------------------------------------------------------------------


async def test_expecting_nothing_matches_nothing(flite: Callable[..., bytes]) -> None:
    """Before it is told what to expect, speech is heard and matches nothing."""
    assert await understood(flite("yes", "rms")) == [None]


async def test_expectations_can_change(flite: Callable[..., bytes]) -> None:
    """An utterance is judged by what is expected when it ends."""
    async with Call(expect=["yes", "no"]) as call:
        call.hears(SILENCE + flite("yes", "rms") + SILENCE)
        await call.recognizer.finalize()
        await call.recognizer.expect(["coffee", "orange juice"])
        call.hears(SILENCE + flite("orange juice", "rms") + SILENCE)
        await call.recognizer.finalize()
    assert call.answers == ["yes", "orange juice"]


async def test_dictation_is_refused() -> None:
    """The error says what to pass and who could."""
    stt = create_stt("pocketsphinx")
    assert isinstance(stt, RecognizerStt)
    assert not stt.capabilities.dictation
    with pytest.raises(UnsupportedCapabilityError, match="expect="):
        await stt.expect(None)


async def test_unknown_words_are_named() -> None:
    """The word and its phrase, also when given at construction, where start tells it; what was expected stays."""
    async with Call(expect=["yes", "no"]) as call:
        with pytest.raises(UnsupportedCapabilityError, match="'xyzzyq' \\(in 'call Xyzzyq'\\)"):
            await call.recognizer.expect(["call Xyzzyq", "yes"])
        assert call.recognizer._expectation is not None
        assert call.recognizer._expectation.phrases == ("yes", "no")
    stt = create_stt("pocketsphinx", expect=["xyzzyq"])
    reasons: list[str] = []
    stt.on_error = reasons.append
    with pytest.raises(UnsupportedCapabilityError, match="xyzzyq"):
        await stt.start(asyncio.Queue())
    assert len(reasons) == 1


@pytest.mark.parametrize("options", [{"expect": []}, {"digits": 0}, {"silence_ms": 10}, {"max_utterance_ms": 10}])
def test_nonsense_is_refused(options: dict[str, Any]) -> None:
    """At construction."""
    with pytest.raises(ConfigurationError):
        create_stt("pocketsphinx", **options)


# -- workers ------------------------------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_workers_are_used_again_and_bounded(flite: Callable[..., bytes], workers: WorkerPool) -> None:
    """Six calls at once share two processes, which wait for the next call."""
    speech = flite("yes", "rms")
    answers = await asyncio.gather(*(understood(speech, ["yes", "no"]) for _ in range(6)))
    assert answers == [["yes"]] * 6
    pids = workers.idle_pids
    assert 1 <= len(pids) <= 2
    await understood(speech, ["yes", "no"])
    assert sorted(workers.idle_pids) == sorted(pids)


async def test_a_worker_that_dies_costs_no_word(flite: Callable[..., bytes], workers: WorkerPool) -> None:
    """Killed between utterances: the next utterance is read by a new process."""
    async with Call(expect=["yes", "no"]) as call:
        killed = workers.idle_pids
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        call.hears(SILENCE + flite("no", "rms") + SILENCE)
        await call.recognizer.finalize()
        assert call.answers == ["no"]
        assert not any(isinstance(event, RecognizerFailed) for event in call.events)
        assert killed
        assert not set(killed) & set(workers.idle_pids)


async def test_a_worker_that_dies_while_it_reads_costs_no_word(flite: Callable[..., bytes]) -> None:
    """Killed with the utterance in hand: another process reads it again."""
    pool = WorkerPool(1)
    try:
        async with Call(expect=["yes", "no"]) as call:
            call.recognizer._pool = pool
            await pool.find_missing(())
            (pid,) = pool.idle_pids
            os.kill(pid, signal.SIGSTOP)  # it takes the request and does not get to it
            call.hears(SILENCE + flite("no", "rms") + SILENCE)
            reading = asyncio.ensure_future(call.recognizer.finalize())
            while pool.idle_pids:  # noqa: ASYNC110 - a process has no event to wait for
                await asyncio.sleep(0.001)
            os.kill(pid, signal.SIGKILL)
            await reading
            assert call.answers == ["no"]
            assert pool.idle_pids != [pid]
    finally:
        pool.close()


async def test_a_worker_that_cannot_live_is_told(
    flite: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When no process answers, the failure is an event, may be retried, and the next utterance is fine again."""
    async with Call(expect=["yes", "no"]) as call:
        pool = call.recognizer._pool
        pool.close()
        monkeypatch.setattr("sys.executable", "/bin/false")
        call.hears(SILENCE + flite("no", "rms") + SILENCE)
        await call.recognizer.finalize()
        failure = call.events[-1]
        assert isinstance(failure, RecognizerFailed)
        assert (failure.kind, failure.retryable) == ("unavailable", True)
        with pytest.raises(ProviderError):
            await call.recognizer.expect(["maybe"])
        monkeypatch.undo()
        call.hears(SILENCE + flite("no", "rms") + SILENCE)
        await call.recognizer.finalize()
        assert call.answers == ["no"]


async def test_a_grammar_that_cannot_be_read_is_told(workers: WorkerPool) -> None:
    """The decoder's own error comes out as ours, and the next request is answered by a fresh process."""
    with pytest.raises(ProviderError, match="JSGF") as raised:
        await workers.decode("#JSGF V1.0;\nthis is no grammar;", SILENCE)
    assert raised.value.kind == "protocol"
    assert await workers.find_missing(("yes",)) == ()


@pytest.mark.parametrize("audio", [b"", b"\xff", b"\xff" * 160, SILENCE])
async def test_nothing_to_read_is_nothing_heard(workers: WorkerPool, audio: bytes) -> None:
    """No audio, a sample, a frame, a second of silence: no words, no error."""
    grammar = expectation_of(["yes", "no"], None, fillers=False)
    assert grammar.match(await workers.decode(grammar.jsgf(), audio)) is None


@pytest.mark.parametrize("ending", ["", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
def test_no_process_outlives_its_parent(ending: str) -> None:
    """A program that just ends, or is killed, with a recogniser at work leaves nothing behind."""
    program = f"""
import asyncio
from voice_runtime.providers.pocketsphinx_worker import pool
from voice_runtime.stt import create_stt

async def call():
    await create_stt("pocketsphinx", expect=["yes"]).start(asyncio.Queue())

asyncio.run(call())
print(*pool.idle_pids, flush=True)
{ending}
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == (-signal.SIGKILL if ending else 0), ran.stderr
    assert ran.stderr == ""
    pids = [int(pid) for pid in ran.stdout.split()]
    assert len(pids) == 1
    deadline = time.monotonic() + 10
    while alive(pids[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pids[0])


async def test_close_ends_the_processes() -> None:
    """A closed pool leaves no process and no thread, and works again when asked."""
    before = threading.active_count()
    pool = WorkerPool(1)
    assert await pool.find_missing(("yes", "xyzzyq")) == ("xyzzyq",)
    (pid,) = pool.idle_pids
    pool.close()
    assert not alive(pid)
    assert pool.idle_pids == []
    assert threading.active_count() == before
    assert await pool.find_missing(("yes",)) == ()
    pool.close()


async def test_closing_in_the_middle_leaves_nothing(flite: Callable[..., bytes]) -> None:
    """The call ends while an utterance is being read: no event comes any more and no task is left."""
    before = asyncio.all_tasks()
    async with Call(expect=["yes", "no"]) as call:
        call.hears(SILENCE + flite("yes", "rms") + SILENCE)
        await asyncio.sleep(0)
    told = len(call.events)
    assert asyncio.all_tasks() == before
    await understood(flite("no", "rms"), ["yes", "no"])
    assert len(call.events) == told
    assert call.answers == []
