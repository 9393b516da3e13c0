"""The espeak-ng voice: no account, no network, 3 ms to the first audio, robotic but clear.

The library comes with the package espeakng-loader (extra ``local``) and is called through ctypes. espeak-ng is
GPL-3.0-or-later: using it, also as a service, asks nothing; who passes on a bundle (an image, an installer) that
contains it must meet that licence for the bundle.
"""

from __future__ import annotations

import asyncio
import bisect
import ctypes
import re
import threading
from collections.abc import AsyncGenerator, Callable
from typing import Any

import espeakng_loader

from ..audio.g711 import pcm16_to_ulaw
from ..audio.resample import Resampler
from ..events import Word
from ..exceptions import ConfigurationError, ProviderError
from ..tts import SpeechChunk, Synthesizer, SynthesizerCapabilities

__all__ = ["EspeakSynthesizer"]

# Names and numbers of espeak-ng's speak_lib.h, version 1.52.
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_PARAMETER_RATE = 1
_PARAMETER_PITCH = 3
_EVENT_LIST_TERMINATED = 0
_EVENT_WORD = 1

_BUFFER_MS = 100
"""How much audio a callback brings: what an abort has to wait for at most, well below a millisecond."""
_PIECE_CHARS = 300
"""Text is made in pieces of so many characters (some 20 s of speech), and the next piece only once the last was
taken: that bounds what lies between the library and a slow listener, without anybody waiting while holding the
library."""

_SENTENCE = re.compile(r".+?(?:[.!?]+[\"')\]]*(?=\s+[^\sa-z])|\n\s*\n|$)", re.DOTALL)
_BYTES_PER_MS = 8


class _Event(ctypes.Structure):
    """``espeak_EVENT``."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # ms
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))

_OnAudio = Callable[[bytes, list[tuple[int, float]]], bool]
"""PCM16 and the words that begin, (character from 0, ms); returns False to stop."""


class _Library:
    """The one copy of espeak-ng in this process.

    It keeps voice, parameters and callback in globals and crashes when two threads are inside, so one lock covers
    setting them and the synthesis; at less than a hundredth of real time that feeds a hundred voices.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._espeak: Any = None
        self._callback: Any = None
        self._on_audio: _OnAudio | None = None
        self._failure: BaseException | None = None
        self.rate_hz = 0

    def _load(self) -> None:
        if self._espeak is not None:
            return
        try:
            espeak = ctypes.CDLL(espeakng_loader.get_library_path())
            data = espeakng_loader.get_data_path()
        except (OSError, RuntimeError) as error:
            raise ProviderError("unavailable", f"cannot load espeak-ng: {error}", provider="espeak") from error
        espeak.espeak_Synth.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.c_uint,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.c_uint,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        rate = espeak.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, _BUFFER_MS, data.encode(), _INITIALIZE_DONT_EXIT)
        if rate <= 0:
            raise ProviderError("unavailable", f"espeak-ng cannot read its data in {data}", provider="espeak")
        self._callback = _Callback(self._receive)  # kept: the library calls it for as long as it lives
        espeak.espeak_SetSynthCallback(self._callback)
        self.rate_hz = rate
        self._espeak = espeak

    def _receive(self, samples: Any, count: int, events: Any) -> int:
        """Called by the library, in the thread that is inside; an exception must not leave it (ctypes would only
        print it)."""
        try:
            on_audio = self._on_audio
            if on_audio is None:
                return 1
            words = []
            index = 0
            while events[index].type != _EVENT_LIST_TERMINATED:
                if events[index].type == _EVENT_WORD:
                    words.append((max(0, events[index].text_position - 1), float(events[index].audio_position)))
                index += 1
            pcm16 = ctypes.string_at(samples, count * 2) if samples and count > 0 else b""
            return 0 if on_audio(pcm16, words) else 1
        except BaseException as error:  # noqa: BLE001 - kept and raised where there is a caller
            self._failure = error
            return 1

    def speak(self, text: str, voice: str, rate: int, pitch: int, on_audio: _OnAudio) -> None:
        """Make ``text``; blocks. Raises ProviderError, and what ``on_audio`` raised."""
        data = text.encode()
        with self._lock:
            self._load()
            if self._espeak.espeak_SetVoiceByName(voice.encode("utf-8", "replace")) != 0:
                raise ProviderError(
                    "bad_request",
                    f"there is no voice {voice!r}; voices are called by language, for example 'en', 'en-us', 'fi'",
                    provider="espeak",
                )
            self._espeak.espeak_SetParameter(_PARAMETER_RATE, rate, 0)
            self._espeak.espeak_SetParameter(_PARAMETER_PITCH, pitch, 0)
            self._on_audio = on_audio
            self._failure = None
            try:
                result = self._espeak.espeak_Synth(data, len(data) + 1, 0, 1, 0, _CHARS_UTF8, None, None)
            finally:
                self._on_audio = None
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if result != 0:
            raise ProviderError("unavailable", f"espeak-ng failed with {result}", provider="espeak", retryable=True)


_library = _Library()


def _speakable(text: str) -> str:
    """Without what UTF-8 or a C string cannot hold, character for character, so that positions stay."""
    return "".join(" " if letter == "\0" or "\ud800" <= letter <= "\udfff" else letter for letter in text)


def _pieces(text: str) -> list[str]:
    """Whole sentences, as many as fit, since the library makes the pauses between them; a sentence that is too long
    by itself is cut between words."""
    pieces: list[str] = []
    piece = ""
    for sentence in (found.strip() for found in _SENTENCE.findall(text)):
        if piece and len(piece) + 1 + len(sentence) > _PIECE_CHARS:
            pieces.append(piece)
            piece = ""
        piece = f"{piece} {sentence}".strip()
        while len(piece) > _PIECE_CHARS:
            cut = piece.rfind(" ", 1, _PIECE_CHARS)
            cut = _PIECE_CHARS if cut < 0 else cut
            pieces.append(piece[:cut].strip())
            piece = piece[cut:].strip()
    return [*pieces, piece] if piece else pieces


class _Utterance:
    """One piece of text on its way through the library into the event loop.

    ``run`` is called in a worker thread; ``cancel`` from any.
    """

    def __init__(self, text: str, offset_ms: float, loop: asyncio.AbstractEventLoop) -> None:
        self.chunks: asyncio.Queue[SpeechChunk | BaseException | None] = asyncio.Queue()
        self._loop = loop
        self._text = text
        self._offset_ms = offset_ms
        self._cancelled = False
        self._starts = [found.start() for found in re.finditer(r"\S+", text)]
        self._open: tuple[int, float] | None = None  # the token that sounds, and since when
        self._resampler: Resampler | None = None
        self.made_bytes = 0

    def cancel(self) -> None:
        self._cancelled = True

    def _deliver(self, item: SpeechChunk | BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(self.chunks.put_nowait, item)
        except RuntimeError:
            self._cancelled = True  # the loop is closed, nobody listens any more

    def run(self, voice: str, rate: int, pitch: int) -> None:
        """Deliver chunks, then None; or, last, what went wrong."""
        try:
            if not self._cancelled:
                _library.speak(self._text, voice, rate, pitch, self._take)
            if not self._cancelled:
                self._finish()
            self._deliver(None)
        except BaseException as error:  # noqa: BLE001 - raised again on the loop
            self._deliver(error)

    def _take(self, pcm16: bytes, begun: list[tuple[int, float]]) -> bool:
        if self._cancelled:
            return False
        if self._resampler is None:
            self._resampler = Resampler(_library.rate_hz, 8000)
        words = [word for word in (self._begin(*found) for found in begun) if word is not None]
        self._send(self._resampler.process(pcm16) if pcm16 else b"", words)
        return True

    def _begin(self, character: int, at_ms: float) -> Word | None:
        """A word begins: the one before it is complete. A number is several words to the library, one to us."""
        token = max(0, bisect.bisect_right(self._starts, character) - 1)
        if self._open is None:
            self._open = (0, at_ms)  # what has no sound, a dash, goes with its neighbour
            return None
        if token <= self._open[0]:
            return None
        ended = self._word(token, at_ms)
        self._open = (token, at_ms)
        return ended

    def _word(self, next_token: int, end_ms: float) -> Word:
        assert self._open is not None
        first, start_ms = self._open
        stop = self._starts[next_token] if next_token < len(self._starts) else len(self._text)
        return Word(
            text=self._text[self._starts[first] : stop].strip(),
            start_ms=self._offset_ms + start_ms,
            end_ms=self._offset_ms + end_ms,
        )

    def _finish(self) -> None:
        rest = self._resampler.flush() if self._resampler is not None else b""
        end_ms = (self.made_bytes + len(rest) // 2) / _BYTES_PER_MS
        words = [self._word(len(self._starts), end_ms)] if self._open is not None else []
        self._send(rest, words)

    def _send(self, pcm16: bytes, words: list[Word]) -> None:
        if pcm16 or words:
            self.made_bytes += len(pcm16) // 2
            self._deliver(SpeechChunk(pcm16_to_ulaw(pcm16), tuple(words)))


class EspeakSynthesizer(Synthesizer):
    """espeak-ng, in a worker thread of the event loop.

    Markup in the text is spoken as text. Characters that cannot be spoken (NUL, lone surrogates) are pauses. Text
    without anything to say makes no audio.

    Args:
        voice: espeak-ng's name of a language or voice: "en", "en-us", "fi", "en+f3" (f3 is a variant).
        rate: words per minute, 80 to 450.
        pitch: 0 to 99, 50 is the voice's own.

    Raises:
        ConfigurationError: rate or pitch out of range. (An unknown voice is found on ``open`` or the first word:
            ProviderError of kind "bad_request".)
    """

    name = "espeak"
    capabilities = SynthesizerCapabilities(word_times=True)

    def __init__(self, *, voice: str = "en", rate: int = 160, pitch: int = 50) -> None:
        if not 80 <= rate <= 450:
            raise ConfigurationError(f"rate is words per minute, 80 to 450, not {rate!r}.")
        if not 0 <= pitch <= 99:
            raise ConfigurationError(f"pitch is 0 to 99, not {pitch!r}.")
        self.voice = voice
        self.rate = rate
        self.pitch = pitch

    async def open(self) -> None:
        """Load the library and the voice, some 20 ms in a worker thread."""
        async for _ in self.synthesize("a"):
            pass

    async def close(self) -> None:
        """Nothing to let go: the library stays for the next call."""

    async def synthesize(self, text: str) -> AsyncGenerator[SpeechChunk, None]:
        """See :meth:`Synthesizer.synthesize`. At most some 20 s are made ahead of what is taken."""
        loop = asyncio.get_running_loop()
        offset_ms = 0.0
        for piece in _pieces(_speakable(text)):
            utterance = _Utterance(piece, offset_ms, loop)
            loop.run_in_executor(None, utterance.run, self.voice, self.rate, self.pitch)
            try:
                while (chunk := await utterance.chunks.get()) is not None:
                    if isinstance(chunk, BaseException):
                        raise chunk
                    yield chunk
            finally:
                utterance.cancel()
            offset_ms += utterance.made_bytes / _BYTES_PER_MS
