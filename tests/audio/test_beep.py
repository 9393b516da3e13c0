"""The beep detector: beeps of many kinds, what is none, and how long it has been quiet."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from voice_runtime.audio.beep import BeepDetector
from voice_runtime.audio.dtmf import DTMF_KEYS, dtmf_tone
from voice_runtime.audio.g711 import pcm16_to_ulaw
from voice_runtime.audio.wav import read_ulaw

Samples = NDArray[np.float64]

AMPLITUDE_0_DBM0 = 22_651


def ulaw(*pieces: Samples) -> bytes:
    samples = np.concatenate(pieces)
    return pcm16_to_ulaw(np.clip(np.rint(samples), -32768, 32767).astype(np.int16).tobytes())


def tone(*frequencies: float, ms: float = 400, level_dbm0: float = -12, edge_ms: float = 0) -> Samples:
    """Each frequency at this level; ``edge_ms``: how long it fades in and out."""
    n = np.arange(round(ms * 8))
    wave: Samples = sum(np.sin(2 * np.pi * hz * n / 8000) for hz in frequencies) + np.zeros(len(n))
    if edge_ms:
        wave *= np.minimum(1, np.minimum(n, n[::-1]) / (edge_ms * 8))
    return AMPLITUDE_0_DBM0 * 10 ** (level_dbm0 / 20) * wave


def silence(ms: float) -> Samples:
    return np.zeros(round(ms * 8))


def noise(ms: float, level_dbm0: float, seed: int = 1) -> Samples:
    rms = AMPLITUDE_0_DBM0 / np.sqrt(2) * 10 ** (level_dbm0 / 20)
    return np.random.default_rng(seed).normal(0, rms, round(ms * 8))


def beeps(audio: bytes, size: int = 160) -> list[float]:
    detector = BeepDetector()
    found = [detector.feed(audio[at : at + size]) for at in range(0, len(audio), size)]
    return [end_ms for end_ms in found if end_ms is not None]


@pytest.fixture
def greeting(prompt: Callable[[str], bytes]) -> Samples:
    """What a person says before the beep."""
    return np.frombuffer(prompt("vm-goodbye"), np.int16).astype(np.float64)


# Beeps


@pytest.mark.parametrize("snr_db", [None, 20, 10])
@pytest.mark.parametrize("hz", [350, 425, 620, 1000, 1400, 1835, 2200])
def test_a_beep_is_heard_where_it_ends(hz: float, snr_db: float | None, greeting: Samples) -> None:
    """After a greeting, at every length and level, in noise: once, within 15 ms."""
    lengths = (120, 200, 400, 600) if hz == 425 else (120, 200, 400, 1000, 1450)
    for number, (ms, level_dbm0) in enumerate(itertools.product(lengths, (-3, -15, -30))):
        before = [
            silence(100 + 3 * number),
            greeting,
            silence(50 + 37 * number),
            tone(hz, ms=ms, level_dbm0=level_dbm0),
        ]
        line = np.concatenate([*before, silence(300)])
        if snr_db is not None:
            line += noise(len(line) / 8, level_dbm0 - snr_db, number)
        assert beeps(ulaw(line)) == [pytest.approx(sum(map(len, before)) / 8, abs=15)]


@pytest.mark.parametrize("hz", [440, 1000, 2000])
def test_a_beep_may_fade_in_and_out(hz: float) -> None:
    """Over 20 ms at each end."""
    line = ulaw(silence(200), tone(hz, ms=200, edge_ms=20), silence(300))
    assert beeps(line) == [pytest.approx(390, abs=20)]


@pytest.mark.parametrize("hz", [600, 850, 1000, 1130])
def test_a_beep_may_be_distorted(hz: float) -> None:
    """A tone that is clipped all the way to a square is still one tone."""
    square = np.sum([tone(hz * odd, level_dbm0=-12 - 20 * np.log10(odd)) for odd in (1, 3, 5) if hz * odd < 3400], 0)
    assert beeps(ulaw(silence(200), square, silence(300))) == [pytest.approx(600, abs=15)]


def test_a_beep_may_follow_speech_at_once(greeting: Samples) -> None:
    """Without a pause between the last word and the beep."""
    speech = greeting[: np.flatnonzero(np.abs(greeting) > 1000)[-1]]
    line = ulaw(speech, tone(1000), silence(300))
    assert beeps(line) == [pytest.approx(len(speech) / 8 + 400, abs=15)]


def test_a_lost_packet_does_not_hide_the_beep() -> None:
    """20 ms of silence in its middle."""
    assert beeps(ulaw(silence(200), tone(1000), silence(20), tone(1000), silence(300))) == [
        pytest.approx(1020, abs=15)
    ]


def test_a_real_beep_is_heard() -> None:
    """The one that Debian's prompts bring along: 700 Hz, 420 ms."""
    path = Path("/usr/share/asterisk/sounds/en_US_f_Allison/beep.wav")
    if not path.exists() and not os.environ.get("CI"):
        pytest.skip("recorded sounds are missing: apt-get install asterisk-core-sounds-en-wav")
    assert beeps(read_ulaw(path) + ulaw(silence(200))) == [pytest.approx(420, abs=25)]


def test_a_beep_is_told_soon() -> None:
    """Within 120 ms after its end."""
    for offset in range(0, 160, 13):
        line = ulaw(np.zeros(1600 + offset), tone(1000), silence(400))
        detector = BeepDetector()
        told_at = next(end for end in range(160, len(line), 160) if detector.feed(line[end - 160 : end]) is not None)
        assert 0 < (told_at - 1600 - offset) / 8 - 400 < 120


def test_every_beep_is_told() -> None:
    """Two in one stream are two; of two in one piece the last is returned."""
    line = ulaw(silence(500), tone(1000), silence(1000), tone(850), silence(300))
    assert beeps(line) == [pytest.approx(900, abs=15), pytest.approx(2300, abs=15)]
    assert BeepDetector().feed(line) == pytest.approx(2300, abs=15)


def test_the_result_does_not_depend_on_the_chunks(greeting: Samples) -> None:
    """Frame by frame, byte by byte or at random: the same end, and the same silence at the same time."""
    line = np.concatenate([greeting, silence(300), tone(950), silence(500)])
    audio = ulaw(line + noise(len(line) / 8, -40))
    whole = BeepDetector()
    expected = whole.feed(audio)
    assert expected is not None
    rng = np.random.default_rng(2)
    for sizes in (itertools.repeat(160), itertools.repeat(1), iter(lambda: int(rng.integers(0, 700)), -1)):
        detector = BeepDetector()
        found = []
        at = 0
        while at < len(audio):
            size = next(sizes)
            found.append(detector.feed(audio[at : at + size]))
            at += size
        assert [end_ms for end_ms in found if end_ms is not None] == [expected]
        assert detector.silence_ms == whole.silence_ms > 0


# What is no beep


@pytest.mark.parametrize(
    "frequencies",
    [
        pytest.param((440, 480), id="ringback, USA"),
        pytest.param((400, 450), id="ringback, UK"),
        pytest.param((480, 620), id="busy, USA"),
        pytest.param((350, 440), id="dial tone"),
        pytest.param((1000, 1400), id="two tones"),
    ],
)
def test_two_frequencies_are_no_beep(frequencies: tuple[float, ...]) -> None:
    """At any length."""
    for ms in (150, 250, 400, 500, 1000, 2000):
        assert beeps(ulaw(silence(200), tone(*frequencies, ms=ms), silence(400))) == []


@pytest.mark.parametrize(
    ("hz", "on_ms"), [(425, 670), (425, 1000), (400, 1000), (440, 1500), (450, 1000), (425, 2000)]
)
def test_ringing_tone_of_one_frequency_is_no_beep(hz: float, on_ms: float) -> None:
    """As in most of Europe and in China: 400 to 450 Hz, 0.67 s or longer, every four or five seconds."""
    ring = np.concatenate([tone(hz, ms=on_ms), silence(5000 - on_ms)])
    assert beeps(ulaw(silence(200), ring, ring, ring)) == []


@pytest.mark.parametrize("ms", [20, 60, 80, 1600, 3000])
def test_too_short_and_too_long_is_no_beep(ms: float) -> None:
    """120 ms to 1.5 s are."""
    assert beeps(ulaw(silence(200), tone(1000, ms=ms), silence(400))) == []


@pytest.mark.parametrize("hz", [200, 300, 2400, 3000])
def test_frequencies_out_of_range_are_no_beep(hz: float) -> None:
    """350 to 2200 Hz are."""
    assert beeps(ulaw(silence(200), tone(hz), silence(400))) == []


@pytest.mark.parametrize("twist_db", [-8, 0, 4])
@pytest.mark.parametrize("key", DTMF_KEYS)
def test_a_key_is_no_beep(key: str, twist_db: float) -> None:
    """Neither as a caller presses it nor with tones as unequal as they may be."""
    assert beeps(dtmf_tone(key * 3, tone_ms=300, pause_ms=300)) == []
    row, column = divmod(DTMF_KEYS.index(key), 4)
    low = tone((697, 770, 852, 941)[row], level_dbm0=-10 - max(twist_db, 0))
    high = tone((1209, 1336, 1477, 1633)[column], level_dbm0=-10 + min(twist_db, 0))
    assert beeps(ulaw(silence(200), low + high, silence(400))) == []


def test_special_information_tones_are_no_beep() -> None:
    """Three tones in a row announce that the number cannot be reached."""
    for first, last in itertools.product((913.8, 985.2), (276, 380)):
        tones = [tone(hz, ms=last) for hz in (first, 1370.6, 1776.7)]
        assert beeps(ulaw(silence(200), *tones, silence(400))) == []


def test_a_tone_that_gives_way_to_another_sound_is_no_beep(greeting: Samples) -> None:
    """The machine listens after its beep."""
    speech = greeting[np.flatnonzero(np.abs(greeting) > 3000)[0] :]
    assert beeps(ulaw(silence(200), tone(1000), speech, silence(300))) == []


def test_a_sliding_or_swelling_tone_is_no_beep() -> None:
    """A beep keeps its frequency and its level."""
    n = np.arange(3200)
    slide = 5000 * np.sin(2 * np.pi * (800 + 100 * n / 3200) * n / 8000)
    swell = tone(1000) * np.hanning(3200) ** 2
    assert beeps(ulaw(silence(200), slide, silence(400))) == []
    assert beeps(ulaw(silence(200), swell, silence(400))) == []


def test_a_voice_that_holds_a_note_is_no_beep() -> None:
    """One frequency, but for a vibrato of 5 Hz."""
    turns = np.cumsum(600 + 5 * np.sin(2 * np.pi * 4 * np.arange(6400) / 8000)) / 8000
    assert beeps(ulaw(silence(200), 5000 * np.sin(2 * np.pi * turns), silence(400))) == []


def test_a_tone_in_a_rustle_is_no_beep() -> None:
    """A sound that is half tone and half noise."""
    assert beeps(ulaw(silence(200), tone(1000) + noise(400, -12), silence(400))) == []


def test_a_long_tone_with_gaps_is_no_beep() -> None:
    """Lost packets do not make beeps of a tone that lasts: its last piece is a part of it."""
    piece = np.concatenate([tone(1000, ms=460), silence(40)])
    assert beeps(ulaw(silence(200), *[piece] * 6, silence(400))) == []


def test_noise_is_no_beep() -> None:
    """A minute of it, in bursts."""
    burst = np.concatenate([noise(300, -15), silence(300)])
    assert beeps(ulaw(*[burst] * 100)) == []


def talk_off(folder: Path, package: str) -> dict[str, list[float]]:
    """The beeps in each recording of a folder."""
    recordings = sorted(folder.glob("**/*.wav"))
    if not recordings and not os.environ.get("CI"):
        pytest.skip(f"recordings are missing: apt-get install {package}")
    assert recordings
    pause = b"\xff" * 1600
    found = ((path.name, beeps(read_ulaw(path) + pause)) for path in recordings)
    return {name: ends for name, ends in found if ends}


def test_speech_is_no_beep() -> None:
    """In 25 minutes of telephone prompts there is one beep, and it is one."""
    found = talk_off(Path("/usr/share/asterisk/sounds/en_US_f_Allison"), "asterisk-core-sounds-en-wav")
    assert list(found) == ["beep.wav"]


def test_music_is_hardly_ever_a_beep() -> None:
    """No note of 18 minutes of music on hold stands so alone."""
    assert talk_off(Path("/usr/share/asterisk/moh"), "asterisk-moh-opsound-wav") == {}


# Silence


def quiet_after(*pieces: Samples) -> float:
    detector = BeepDetector()
    detector.feed(ulaw(*pieces))
    return detector.silence_ms


def test_silence_is_counted_from_the_last_sound(greeting: Samples) -> None:
    """From the beginning of the stream, and again from the end of each sound."""
    speech = greeting[: np.flatnonzero(np.abs(greeting) > 1000)[-1]]
    assert BeepDetector().silence_ms == 0
    assert quiet_after(silence(500)) == 500
    assert quiet_after(silence(500), speech) == 0
    assert quiet_after(silence(500), speech, silence(1500)) == pytest.approx(1500, abs=40)
    assert quiet_after(silence(500), tone(1000), silence(600)) == pytest.approx(600, abs=40)


@pytest.mark.parametrize("level_dbm0", [-60, -45, -38])
def test_the_noise_of_the_line_is_silence(level_dbm0: float, greeting: Samples) -> None:
    """The threshold follows the noise, from comfort noise to a bad line."""
    speech = np.concatenate([silence(600), greeting])
    line = np.concatenate([speech, silence(3000)])
    audio = line + noise(len(line) / 8, level_dbm0)
    spoken = np.flatnonzero(np.abs(speech) > 1000)[-1]
    assert quiet_after(audio[:spoken]) == 0
    assert quiet_after(audio) == pytest.approx((len(line) - spoken) / 8, abs=150)


def test_a_click_does_not_end_the_silence() -> None:
    """One loud frame counts as quiet, two do not."""
    click = np.zeros(160)
    click[80:90] = 20_000
    assert quiet_after(silence(1000), click, silence(1000)) == 2020
    assert quiet_after(silence(1000), click, click, silence(1000)) == 1000


def test_steady_sound_does_not_become_silence(greeting: Samples) -> None:
    """Neither a tone of ten seconds nor loud noise is taken for the line's own noise."""
    assert quiet_after(tone(1000, ms=10_000, level_dbm0=-25)) == 0
    assert quiet_after(noise(10_000, -25)) == 0
    assert quiet_after(*[greeting[: np.flatnonzero(np.abs(greeting) > 1000)[-1]]] * 8) == 0
