"""A voice of beeps, one per word: for the base install, which has no voice, and for tests that want to know what
was played.

The same word always makes the same two tones (:func:`tones_of`), so audio can be told apart by its spectrum.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator

import numpy as np
import numpy.typing as npt

from ..audio.g711 import pcm16_to_ulaw
from ..events import Word
from ..exceptions import ConfigurationError
from ..tts import SpeechChunk, Synthesizer, SynthesizerCapabilities

__all__ = ["ToneSynthesizer", "tones_of"]

_RATE = 8000
_FREQUENCIES = tuple(400 + 150 * step for step in range(16))
"""400 to 2650 Hz: inside the telephone band (300 to 3400 Hz), one at a time, so never a DTMF pair."""
_AMPLITUDE = 8000  # about -12 dBFS, the level of speech
_RAMP = 40  # 5 ms at either end of a tone, or it clicks
_PAUSES = {",": 100, ";": 150, ":": 150, ".": 250, "!": 250, "?": 250}  # ms more after the word


def tones_of(word: str) -> tuple[int, int]:
    """The two frequencies (Hz) of a word, one after the other; case and punctuation make no difference."""
    bare = "".join(letter for letter in word.casefold() if letter.isalnum())
    digest = zlib.crc32(bare.encode("utf-8", "replace"))
    return _FREQUENCIES[digest & 15], _FREQUENCIES[(digest >> 4) & 15]


class ToneSynthesizer(Synthesizer):
    """Two tones per word, silence between words, a longer one after punctuation.

    Args:
        word_ms: how long a word sounds.
        gap_ms: silence after each word.
    """

    name = "tone"
    capabilities = SynthesizerCapabilities(word_times=True)

    def __init__(self, *, word_ms: int = 200, gap_ms: int = 60) -> None:
        if word_ms < 20 or gap_ms < 0:
            raise ConfigurationError(
                f"word_ms must be at least 20 and gap_ms not negative, not {word_ms!r} and {gap_ms!r}."
            )
        self.word_ms = word_ms
        self.gap_ms = gap_ms

    async def open(self) -> None:
        """Nothing to warm up."""

    async def close(self) -> None:
        """Nothing to let go."""

    async def synthesize(self, text: str) -> AsyncGenerator[SpeechChunk, None]:
        """One chunk per word."""
        position = 0.0
        for word in text.split():
            silence = self.gap_ms + _PAUSES.get(word[-1], 0)
            audio = self._sound(word) + b"\xff" * (silence * _RATE // 1000)
            end = position + self.word_ms
            yield SpeechChunk(audio, (Word(text=word, start_ms=position, end_ms=end),))
            position = end + silence
            await asyncio.sleep(0)  # other calls go first

    def _sound(self, word: str) -> bytes:
        samples = self.word_ms * _RATE // 1000
        first = samples // 2
        halves = [
            self._tone(frequency, length)
            for frequency, length in zip(tones_of(word), (first, samples - first), strict=True)
        ]
        return pcm16_to_ulaw(np.concatenate(halves).astype("<i2").tobytes())

    @staticmethod
    def _tone(frequency: int, length: int) -> npt.NDArray[np.float64]:
        tone: npt.NDArray[np.float64] = _AMPLITUDE * np.sin(2 * np.pi * frequency / _RATE * np.arange(length))
        ramp = np.linspace(0.0, 1.0, min(_RAMP, length // 2))
        tone[: len(ramp)] *= ramp
        tone[length - len(ramp) :] *= ramp[::-1]
        return tone
