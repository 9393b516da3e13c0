"""A voice of beeps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from voice_runtime.audio.g711 import ulaw_to_pcm16
from voice_runtime.exceptions import ConfigurationError
from voice_runtime.providers.tone_tts import ToneSynthesizer, tones_of
from voice_runtime.tts import SynthesizerTts, create_tts


async def made(text: str, synthesizer: ToneSynthesizer | None = None) -> tuple[bytes, list[tuple[str, float, float]]]:
    audio, words = b"", []
    async for chunk in (synthesizer or ToneSynthesizer()).synthesize(text):
        audio += chunk.audio
        words += [(word.text, word.start_ms, word.end_ms) for word in chunk.words]
    return audio, words


def loudest_hz(audio: bytes) -> float:
    samples = np.frombuffer(ulaw_to_pcm16(audio), "<i2").astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum)) * 8000 / len(samples)


async def test_each_word_sounds_where_it_is_said_to() -> None:
    """The two tones of each word are found in its audio, at its times; silence lies between the words."""
    audio, words = await made("Your table, please. Thanks")
    assert [word for word, _, _ in words] == ["Your", "table,", "please.", "Thanks"]
    for word, start_ms, end_ms in words:
        middle = (start_ms + end_ms) / 2
        first, second = tones_of(word)
        assert loudest_hz(audio[int(start_ms * 8) : int(middle * 8)]) == pytest.approx(first, abs=15)
        assert loudest_hz(audio[int(middle * 8) : int(end_ms * 8)]) == pytest.approx(second, abs=15)
    for (_, _, end_ms), (_, next_ms, _) in itertools.pairwise(words):
        assert set(audio[int(end_ms * 8) : int(next_ms * 8)]) == {0xFF}
    pauses = [after[1] - before[2] for before, after in itertools.pairwise(words)]
    assert pauses == [60, 160, 310]


async def test_the_same_text_makes_the_same_audio() -> None:
    """Deterministic, and blind to case and punctuation."""
    assert await made("one two") == await made("one two")
    assert tones_of("Yes!") == tones_of("yes")
    assert len({tones_of(word) for word in ["yes", "no", "table", "booked", "eight", "confirm", "goodbye"]}) == 7


async def test_nothing_to_say_makes_no_audio() -> None:
    """Empty text is no audio and no word."""
    assert await made("") == await made(" \n") == (b"", [])


async def test_it_can_be_cut_between_words() -> None:
    """Closing the generator ends it at once, however long the text."""
    speech = ToneSynthesizer().synthesize("word " * 100_000)
    assert (await anext(speech)).words[0].text == "word"
    await speech.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(speech)


async def test_options() -> None:
    """Lengths are in ms and out-of-range ones are refused."""
    _, words = await made("a b", ToneSynthesizer(word_ms=100, gap_ms=20))
    assert words == [("a", 0.0, 100.0), ("b", 120.0, 220.0)]
    with pytest.raises(ConfigurationError, match="word_ms"):
        create_tts("tone", word_ms=5)
    tts = create_tts("tone")
    assert isinstance(tts, SynthesizerTts)
    await tts.synthesizer.open()
    await tts.synthesizer.close()
