"""The espeak-ng voice, the real library."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="the extra local is not installed")

from voice_runtime.audio.g711 import ulaw_to_pcm16
from voice_runtime.events import Word
from voice_runtime.exceptions import ConfigurationError, ProviderError
from voice_runtime.providers import espeak_tts
from voice_runtime.providers.espeak_tts import EspeakSynthesizer
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.tts import SynthesizerTts, create_tts


async def made(text: str, **options: str | int) -> tuple[bytes, list[Word]]:
    audio = b""
    words: list[Word] = []
    async for chunk in EspeakSynthesizer(**options).synthesize(text):  # type: ignore[arg-type]
        audio += chunk.audio
        words += chunk.words
    return audio, words


def level_db(audio: bytes) -> float:
    samples = np.frombuffer(ulaw_to_pcm16(audio), "<i2").astype(float)
    return float(10 * np.log10(np.mean(samples**2) / 32768**2 + 1e-12))


async def test_it_speaks() -> None:
    """A sentence is some seconds of audio at the level of speech."""
    audio, _ = await made("Your table is booked for eight. Shall I confirm it?")
    assert 2500 < len(audio) / 8 < 6000
    assert -30 < level_db(audio) < -5


@pytest.mark.parametrize(
    "text",
    [
        "Your table is booked for eight. Shall I confirm it?",
        "I have 42 twenty-five 1,234.50 items!",
        "naïve 😀 café — so on",
        "Dr. Smith is here. He is 3.5 m.",
        "use <b>bold</b> & [[phonemes]] {braces}",
        "One.\n\nTwo.  Three",
        "A very long story that goes on. " * 30,
    ],
)
async def test_words_are_the_text_and_lie_in_the_audio(text: str) -> None:
    """Joined by spaces the words are the text; their times rise, touch, and end with the audio."""
    audio, words = await made(text)
    assert " ".join(word.text for word in words).split() == text.split()
    assert words[0].start_ms >= 0
    assert all(word.start_ms < word.end_ms for word in words)
    assert all(before.end_ms <= after.start_ms + 0.001 for before, after in itertools.pairwise(words))
    assert words[-1].end_ms == pytest.approx(len(audio) / 8, abs=1)


async def test_words_sound_when_they_are_said_to() -> None:
    """The pause before the second sentence lies before its first word."""
    audio, words = await made("Hello. Goodbye.")
    assert [word.text for word in words] == ["Hello.", "Goodbye."]
    start = round(words[1].start_ms * 8)
    assert level_db(audio[start - 600 : start]) < -40
    assert level_db(audio[start + 400 : start + 2400]) > -30


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\0", "\ud800\udfff"])
async def test_nothing_to_say_makes_no_audio(text: str) -> None:
    """Empty text, and text of nothing that can be spoken, is no audio and no word."""
    assert await made(text) == (b"", [])


async def test_characters_that_cannot_be_spoken_are_pauses() -> None:
    """NUL does not end the text, and a lone surrogate does not fail it."""
    _, words = await made("one\0two \ud83d three")
    assert [word.text for word in words] == ["one", "two", "three"]


async def test_markup_is_text() -> None:
    """A break tag is spoken, not obeyed."""
    plain, _ = await made("a b")
    marked, _ = await made('a <break time="9s"/> b')
    assert len(plain) < len(marked) < len(plain) + 8 * 6000


async def test_voice_rate_and_pitch_are_heard() -> None:
    """A faster rate is shorter, and another pitch or voice sounds different."""
    slow, _ = await made("Shall I confirm it?", rate=100)
    fast, _ = await made("Shall I confirm it?", rate=250)
    assert len(fast) < 0.6 * len(slow)
    low, _ = await made("Shall I confirm it?", pitch=10)
    high, _ = await made("Shall I confirm it?", pitch=90)
    finnish, _ = await made("Shall I confirm it?", voice="fi")
    assert len({low, high, finnish}) == 3


@pytest.mark.parametrize("options", [{"rate": 79}, {"rate": 451}, {"pitch": -1}, {"pitch": 100}])
def test_options_out_of_range_are_refused(options: dict[str, int]) -> None:
    """At construction, naming the range."""
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        create_tts("espeak", **options)


async def test_unknown_voices_are_told() -> None:
    """On open and on the first word, as a request that will not do."""
    tts = create_tts("espeak", voice="nosuchvoice")
    assert isinstance(tts, SynthesizerTts)
    with pytest.raises(ProviderError, match="no voice 'nosuchvoice'") as raised:
        await tts.synthesizer.open()
    assert raised.value.kind == "bad_request"
    await tts.synthesizer.close()


async def test_the_first_audio_comes_before_the_rest_is_made() -> None:
    """Audio streams: of a text of minutes, the first chunk comes while the rest is not yet text to the library."""
    speech = EspeakSynthesizer().synthesize("word " * 20_000)
    chunk = await anext(speech)
    assert 0 < len(chunk.audio) < 8000
    await speech.aclose()


async def test_closing_stops_the_library() -> None:
    """After aclose the library is free at once and the next utterance is whole."""
    reference, _ = await made("Goodbye.")
    speech = EspeakSynthesizer().synthesize("This goes on and on, " * 200)
    await anext(speech)
    began = time.monotonic()
    await speech.aclose()
    again, _ = await made("Goodbye.")
    assert time.monotonic() - began < 2
    assert len(again) == pytest.approx(len(reference), abs=400)


async def test_a_slow_listener_bounds_what_is_made() -> None:
    """Nobody takes a thing: no more than one piece of text lies ready."""
    speech = EspeakSynthesizer().synthesize("This is one sentence of many. " * 500)
    await anext(speech)

    def until_the_library_is_free() -> None:
        with espeak_tts._library._lock:
            pass

    await asyncio.to_thread(until_the_library_is_free)
    await asyncio.sleep(0)
    ahead = 0
    utterance = speech.ag_frame.f_locals["utterance"]  # type: ignore[attr-defined]
    while not utterance.chunks.empty():
        chunk = utterance.chunks.get_nowait()
        ahead += len(chunk.audio) if chunk is not None else 0
    assert 0 < ahead < 8000 * 40
    await speech.aclose()


async def test_many_calls_speak_at_once() -> None:
    """Twenty utterances in two voices at the same time: none crashes the library or gets another's words."""
    texts = [f"This is call number {number} of many" for number in range(20)]
    voices = ["en", "fi"] * 10
    everything = await asyncio.gather(*(made(text, voice=voice) for text, voice in zip(texts, voices, strict=True)))
    for text, (audio, words) in zip(texts, everything, strict=True):
        assert " ".join(word.text for word in words) == text
        assert len(audio) > 8000


def test_an_error_inside_the_library_comes_out() -> None:
    """An exception in the callback ends the synthesis and is raised where the text was given."""

    def fail(pcm16: bytes, words: list[tuple[int, float]]) -> bool:
        raise LookupError("inside")

    with pytest.raises(LookupError, match="inside"):
        espeak_tts._library.speak("Hello", "en", 160, 50, fail)
    got = bytearray()

    def take(pcm16: bytes, words: list[tuple[int, float]]) -> bool:
        got.extend(pcm16)
        return True

    espeak_tts._library.speak("Hello", "en", 160, 50, take)
    assert len(got) > 10_000


def test_a_loop_that_closes_is_survived() -> None:
    """An utterance whose loop is gone ends by itself and raises nowhere."""
    loop = asyncio.new_event_loop()
    utterance = espeak_tts._Utterance("Hello there", 0.0, loop)
    loop.close()
    thread = threading.Thread(target=utterance.run, args=("en", 160, 50))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()


def test_virtual_time_stands_still_meanwhile() -> None:
    """Making speech takes no time on a virtual clock."""
    lengths: list[tuple[float, int]] = []
    with VirtualClock() as clock:

        async def speak() -> None:
            audio, _ = await made("Shall I confirm it?")
            lengths.append((asyncio.get_running_loop().time(), len(audio)))

        loop = clock.new_event_loop()
        clock.start_thread(lambda: loop.run_until_complete(speak()), "loop").join()
        loop.close()
    assert lengths[0][0] == 0.0
    assert lengths[0][1] > 4000
