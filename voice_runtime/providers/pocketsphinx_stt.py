"""Speech recognition without an account or a network, for answers that are known beforehand.

PocketSphinx (extra ``local``, BSD-style licence, model included, English) reads free speech too badly to be of use on
the telephone, but tells apart a handful of expected answers well: yes and no, a menu, a number of digits. So it has
to be told what to expect; it always answers with one of those, or with no match. It cannot tell that something else
was said.

The audio is cut into utterances by a voice activity detector on the event loop; an utterance is read in a process of
its own (:mod:`.pocketsphinx_worker`), which takes a fortieth of its length.
"""

from __future__ import annotations

import asyncio
import collections
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..events import Final, NoMatch, RecognitionEvent, RecognizerFailed, SpeechEnded, SpeechStarted
from ..exceptions import ConfigurationError, ProviderError, UnsupportedCapabilityError
from ..stt import Recognizer, RecognizerCapabilities, dictation_unsupported
from ..vad import FRAME_BYTES, FRAME_MS, SpeechSegmenter, VoiceActivityDetector, create_vad
from .pocketsphinx_grammar import Expectation, expectation_of
from .pocketsphinx_worker import WorkerPool, pool

__all__ = ["PocketsphinxRecognizer"]

logger = logging.getLogger(__name__)

_MARGIN_MS = 200.0
"""How much of the line is read before and after what the detector calls speech: soft first and last consonants."""
_UTTERANCES_WAITING = 8
"""Utterances that may wait for a worker; then the oldest is dropped and counted."""
_BYTES_PER_MS = 8


@dataclass(frozen=True, slots=True)
class _Utterance:
    start_ms: float
    end_ms: float
    audio: bytes
    expectation: Expectation | None


class PocketsphinxRecognizer(Recognizer):
    """Hears the answers named by ``expect``; speech before it was told any is a ``NoMatch``.

    A :class:`~voice_runtime.events.Final` has the phrase as it was given to ``expect``, or the digits as figures
    ("1234"). One politeness before (uh, um, well, okay) and one after an answer (please, thanks, thank you) are
    understood and left out. There is no confidence: PocketSphinx gives none that means anything.

    Args:
        expect, digits: what to expect from the start, as for :meth:`expect`.
        silence_ms: how long the caller must be silent to be done.
        max_utterance_ms: speech longer than this is cut and read as it is.
        fillers: whether politeness is understood.
        vad: registry name of the detector; None takes the best there is.
    """

    name = "pocketsphinx"
    capabilities = RecognizerCapabilities(phrases=True, digits=True, languages=("en-US",))

    def __init__(
        self,
        *,
        expect: Sequence[str] | None = None,
        digits: int | None = None,
        silence_ms: float = 500.0,
        max_utterance_ms: float = 15_000.0,
        fillers: bool = True,
        vad: str | None = None,
    ) -> None:
        if silence_ms < 100 or max_utterance_ms < 1000:
            raise ConfigurationError(
                f"silence_ms must be at least 100 and max_utterance_ms at least 1000, "
                f"not {silence_ms!r} and {max_utterance_ms!r}."
            )
        self.fillers = fillers
        self.max_utterance_ms = max_utterance_ms
        self.dropped_utterances = 0
        self._initial = None if expect is None and digits is None else expectation_of(expect, digits, fillers)
        self._vad_name = vad
        self._segmenter = SpeechSegmenter(end_ms=silence_ms)
        self._pool: WorkerPool = pool
        self._expectation: Expectation | None = None
        self._emit: Callable[[RecognitionEvent], None] | None = None
        self._vad: VoiceActivityDetector | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: asyncio.Queue[_Utterance] = asyncio.Queue()
        self._partial = b""
        self._heard = bytearray()
        margin = _MARGIN_MS + self._segmenter.start_ms
        self._before: collections.deque[bytes] = collections.deque(maxlen=round(margin / FRAME_MS))
        self._start_ms = 0.0

    # -- life ---------------------------------------------------------------------------------------------------

    async def start(self, emit: Callable[[RecognitionEvent], None]) -> None:
        """Have a worker ready: at once where one waits, else half a second."""
        await self._pool.find_missing(())
        if self._initial is not None:
            await self._adopt(self._initial)
        # Off the loop: the first detector of a process loads a library.
        loop = asyncio.get_running_loop()
        self._vad = await loop.run_in_executor(None, create_vad, self._vad_name)
        self._segmenter.reset()
        self._before.clear()
        self._heard.clear()
        self._partial = b""
        self._waiting = asyncio.Queue()
        self._emit = emit
        self._reading = loop.create_task(self._read_all())

    async def close(self) -> None:
        self._emit = None
        vad, self._vad = self._vad, None
        if vad is not None:
            vad.close()
        reading, self._reading = self._reading, None
        if reading is not None and not reading.done():
            reading.cancel()
            await asyncio.wait([reading])

    async def expect(self, phrases: Sequence[str] | None, digits: int | None = None) -> None:
        """What the next utterances may be. It counts for those that end from now on.

        Raises:
            UnsupportedCapabilityError: anything was asked for (dictation), or a word is not in the dictionary; the
                message names it.
            ConfigurationError: an empty list, a phrase without words, digits out of 1 to 32.
            ProviderError: the worker failed.
        """
        if phrases is None and digits is None:
            raise dictation_unsupported(self.name)
        await self._adopt(expectation_of(phrases, digits, self.fillers))

    async def _adopt(self, expectation: Expectation) -> None:
        missing = await self._pool.find_missing(expectation.words) if expectation.words else ()
        if missing:
            named = ", ".join(f"{word!r} (in {expectation.phrase_with(word)!r})" for word in missing)
            raise UnsupportedCapabilityError(
                f"The STT provider 'pocketsphinx' does not know the word {named}: its dictionary is of common "
                f"English words and names. Use another word, or spell it as it sounds in words it knows."
            )
        self._expectation = expectation

    # -- audio in -----------------------------------------------------------------------------------------------

    def feed(self, audio: bytes) -> None:
        if self._vad is None:
            return
        if self._partial:
            audio = self._partial + audio
        whole = len(audio) - len(audio) % FRAME_BYTES
        for offset in range(0, whole, FRAME_BYTES):
            self._take(self._vad, audio[offset : offset + FRAME_BYTES])
        self._partial = audio[whole:]

    def _take(self, vad: VoiceActivityDetector, frame: bytes) -> None:
        event = self._segmenter.push(vad.process(frame))
        if not self._heard:
            self._before.append(frame)
            if isinstance(event, SpeechStarted):
                self._start_ms = event.at_ms
                self._heard += b"".join(self._before)
                self._before.clear()
                self._tell(event)
            return
        self._heard += frame
        if event is None and len(self._heard) >= self.max_utterance_ms * _BYTES_PER_MS:
            event = self._segmenter.finish()
        if isinstance(event, SpeechEnded):
            self._end(event)

    def _end(self, ended: SpeechEnded) -> None:
        first_ms = self._segmenter.position_ms - len(self._heard) / _BYTES_PER_MS
        begin = max(0, round((self._start_ms - _MARGIN_MS - first_ms) * _BYTES_PER_MS))
        end = round((ended.at_ms + _MARGIN_MS - first_ms) * _BYTES_PER_MS)
        utterance = _Utterance(self._start_ms, ended.at_ms, bytes(self._heard[begin:end]), self._expectation)
        self._heard.clear()
        self._tell(ended)
        if self._waiting.qsize() >= _UTTERANCES_WAITING:
            self._waiting.get_nowait()
            self._waiting.task_done()
            self.dropped_utterances += 1
            logger.warning("An utterance was dropped: %d were waiting to be read", _UTTERANCES_WAITING)
        self._waiting.put_nowait(utterance)

    async def finalize(self) -> None:
        """End the utterance under way here; returns when everything said so far was read and told."""
        ended = self._segmenter.finish() if self._heard else None
        if ended is not None:
            self._end(ended)
        if self._reading is not None:
            await self._waiting.join()

    # -- events out ---------------------------------------------------------------------------------------------

    async def _read_all(self) -> None:
        while True:
            utterance = await self._waiting.get()
            try:
                self._tell(await self._read(utterance))
            finally:
                self._waiting.task_done()

    async def _read(self, utterance: _Utterance) -> RecognitionEvent:
        expectation = utterance.expectation
        if expectation is None:
            return NoMatch(at_ms=utterance.end_ms)
        try:
            heard = await self._decode(expectation.jsgf(), utterance.audio)
        except ProviderError as error:
            return RecognizerFailed(
                at_ms=utterance.end_ms, kind=error.kind, message=str(error), retryable=error.retryable
            )
        answer = expectation.match(heard)
        if answer is None:
            return NoMatch(at_ms=utterance.end_ms)
        return Final(at_ms=utterance.start_ms, end_ms=utterance.end_ms, text=answer, language="en-US")

    async def _decode(self, grammar: str, audio: bytes) -> str:
        try:
            return await self._pool.decode(grammar, audio)
        except ProviderError as error:
            if error.kind != "unavailable":
                raise
            logger.warning("%s; the utterance is read again by another one", error)
        return await self._pool.decode(grammar, audio)

    def _tell(self, event: RecognitionEvent) -> None:
        if self._emit is not None:
            self._emit(event)
