"""DTMF: the tones that are made, and what the detector hears in tones, noise, voices and music."""

from __future__ import annotations

import difflib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from voice_runtime.audio.dtmf import DTMF_KEYS, DetectedKey, DtmfDetector, dtmf_tone
from voice_runtime.audio.frames import SILENCE_FRAME
from voice_runtime.audio.g711 import pcm16_to_ulaw, ulaw_to_pcm16
from voice_runtime.audio.levels import peak_dbfs, rms_dbfs
from voice_runtime.audio.wav import read_ulaw

ROWS = (697, 770, 852, 941)
COLUMNS = (1209, 1336, 1477, 1633)
KEYPAD = ("123A", "456B", "789C", "*0#D")
FREQUENCIES = {key: (ROWS[r], COLUMNS[c]) for r, row in enumerate(KEYPAD) for c, key in enumerate(row)}
DBM0_IN_DBFS = -6.22
"""RMS of a sine of 0 dBm0 in dBFS, by the sequence of ITU-T G.711."""

Samples = NDArray[np.float64]


def ulaw(samples: Samples) -> bytes:
    return pcm16_to_ulaw(np.clip(np.rint(samples), -32768, 32767).astype(np.int16).tobytes())


def sine(hz: float, ms: float, *, level_dbm0: float = -10, phase: float = 0.0) -> Samples:
    amplitude = 32768 * np.sqrt(2) * 10 ** ((level_dbm0 + DBM0_IN_DBFS) / 20)
    wave: Samples = amplitude * np.sin(2 * np.pi * hz * np.arange(round(ms * 8)) / 8000 + phase)
    return wave


def silence(ms: float) -> Samples:
    return np.zeros(round(ms * 8))


def noise(count: int, level_dbm0: float, seed: int = 1) -> Samples:
    rms = 32768 * 10 ** ((level_dbm0 + DBM0_IN_DBFS) / 20)
    return np.random.default_rng(seed).normal(0, rms, count)


def key_tone(
    key: str,
    ms: float,
    *,
    level_dbm0: float = -10,
    twist_db: float = 0,
    deviation: tuple[float, float] = (0, 0),
    phases: tuple[float, float] = (0, 0),
) -> Samples:
    """``twist_db``: by how much the column is louder than the row; the louder one has the level."""
    row, column = FREQUENCIES[key]
    return sine(row * (1 + deviation[0]), ms, level_dbm0=level_dbm0 - max(twist_db, 0), phase=phases[0]) + sine(
        column * (1 + deviation[1]), ms, level_dbm0=level_dbm0 + min(twist_db, 0), phase=phases[1]
    )


def dialling(
    tone_ms: float,
    *,
    pause_ms: float = 60,
    count: int = 100,
    level_dbm0: float = -10,
    twist_db: float = 0,
    deviation: tuple[float, float] = (0, 0),
    snr_db: float | None = None,
    seed: int = 11,
) -> tuple[str, bytes]:
    """Random keys in random phases, anywhere in the frames, and their sound, in white noise from end to end."""
    rng = np.random.default_rng(seed)
    keys = "".join(rng.choice(list(DTMF_KEYS), count))
    pieces = [silence(50)]
    for key in keys:
        phases = (rng.uniform(0, 6.3), rng.uniform(0, 6.3))
        tone = key_tone(key, tone_ms, level_dbm0=level_dbm0, twist_db=twist_db, deviation=deviation, phases=phases)
        pieces += [tone, silence(pause_ms + rng.uniform(0, 10))]
    sound = np.concatenate([*pieces, silence(100)])
    if snr_db is not None:
        tones_dbm0 = level_dbm0 + 10 * np.log10(1 + 10 ** (-abs(twist_db) / 10))
        sound = sound + noise(len(sound), tones_dbm0 - snr_db, seed)
    return keys, ulaw(sound)


def heard(audio: bytes) -> str:
    detector = DtmfDetector()
    return "".join(key.digit for key in detector.feed(audio) + detector.flush())


def missed_and_false(pressed: str, found: str) -> tuple[int, int]:
    matcher = difflib.SequenceMatcher(None, pressed, found, autojunk=False)
    right = sum(block.size for block in matcher.get_matching_blocks())
    return len(pressed) - right, len(found) - right


# The tones that are made


@pytest.mark.parametrize("key", DTMF_KEYS)
def test_a_key_is_the_two_frequencies_of_its_row_and_column(key: str) -> None:
    """The two strongest lines of the spectrum are the key's, and equally strong."""
    tone = np.frombuffer(ulaw_to_pcm16(dtmf_tone(key, tone_ms=1000, pause_ms=0)), np.int16)
    spectrum = np.abs(np.fft.rfft(tone * np.hanning(len(tone))))
    lines = sorted(np.argsort(spectrum)[-6:].tolist())  # a Hann window shows each line three bins wide
    row, column = FREQUENCIES[key]
    assert lines == [row - 1, row, row + 1, column - 1, column, column + 1]
    assert spectrum[row] == pytest.approx(spectrum[column], rel=0.02)


@pytest.mark.parametrize("level_dbm0", [-3, -10, -25])
def test_the_level_is_that_of_each_tone(level_dbm0: float) -> None:
    """Two tones of one level are together 3 dB louder; the loudest that is allowed is not clipped."""
    tone = dtmf_tone("5", tone_ms=1000, pause_ms=0, level_dbm0=level_dbm0)
    assert rms_dbfs(tone) == pytest.approx(level_dbm0 + 3.01 + DBM0_IN_DBFS, abs=0.15)
    assert peak_dbfs(tone) < -0.1


def test_zero_dbm0_is_that_of_g711() -> None:
    """The sequence that G.711 defines to be 1 kHz at 0 dBm0 has the level this test file counts from."""
    assert rms_dbfs(bytes.fromhex("1E0B0B1E9E8B8B9E") * 100) == pytest.approx(DBM0_IN_DBFS, abs=0.01)


def test_each_key_has_its_tone_and_its_pause() -> None:
    """Durations are as asked for, the pause also follows the last key, and waits are half a second and a second."""
    assert len(dtmf_tone("159", tone_ms=70, pause_ms=50)) == 3 * (70 + 50) * 8
    assert dtmf_tone("1", tone_ms=70, pause_ms=50)[70 * 8 :] == b"\xff" * (50 * 8)
    assert dtmf_tone("w") == b"\xff" * 4000
    assert dtmf_tone("W") == b"\xff" * 8000
    assert dtmf_tone("1wW2") == dtmf_tone("1") + b"\xff" * 12000 + dtmf_tone("2")
    assert dtmf_tone("") == b""


def test_a_tone_begins_and_ends_softly() -> None:
    """Nothing louder than a twentieth of the tone in its first and last quarter of a millisecond: no clicks."""
    samples = np.abs(np.frombuffer(ulaw_to_pcm16(dtmf_tone("1", pause_ms=0)), np.int16).astype(float))
    assert samples[:2].max() < samples.max() / 20
    assert samples[-2:].max() < samples.max() / 20


@pytest.mark.parametrize(
    ("digits", "options", "message"),
    [
        ("12x4", {}, "Keys are 0-9.*'x' came at position 2"),
        ("1 2", {}, "' ' came at position 1"),
        ("a", {}, "'a' came"),
        ("１", {}, "came at position 0"),
        ("1", {"tone_ms": 0}, "tone_ms is more than 0.*; 0 came"),
        ("1", {"pause_ms": -1}, "pause_ms is 0 or more.*; -1 came"),
        ("1", {"level_dbm0": 0}, "level_dbm0 is from -60 to -3.*; 0 came"),
        ("1", {"level_dbm0": float("nan")}, "nan came"),
    ],
)
def test_what_cannot_be_made_is_refused(digits: str, options: dict[str, float], message: str) -> None:
    """The error says what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        dtmf_tone(digits, **options)


# What the detector must hear (ITU-T Q.24)


@pytest.mark.parametrize("tone_ms", [40, 50, 100])
@pytest.mark.parametrize(
    "line",
    [
        pytest.param({}, id="clean"),
        pytest.param({"snr_db": 15}, id="noise of -15 dB"),
        pytest.param({"snr_db": 10}, id="noise of -10 dB"),
        pytest.param({"twist_db": 4}, id="column 4 dB louder"),
        pytest.param({"twist_db": -8}, id="column 8 dB quieter"),
        pytest.param({"deviation": (0.015, 0.015)}, id="1.5 % high"),
        pytest.param({"deviation": (-0.015, -0.015)}, id="1.5 % low"),
        pytest.param({"deviation": (0.015, -0.015)}, id="row 1.5 % high, column low"),
        pytest.param({"deviation": (0.0075, -0.0075), "snr_db": 10}, id="0.75 % off, noise of -10 dB"),
        pytest.param({"deviation": (0.015, 0.015), "snr_db": 10}, id="1.5 % high, noise of -10 dB"),
        pytest.param({"twist_db": 4, "snr_db": 10}, id="column 4 dB louder, noise of -10 dB"),
        pytest.param({"twist_db": -8, "deviation": (-0.015, 0.015), "snr_db": 15}, id="everything at once"),
        pytest.param({"level_dbm0": -25}, id="-25 dBm0"),
        pytest.param({"level_dbm0": -3}, id="-3 dBm0"),
        pytest.param({"pause_ms": 40}, id="pauses of 40 ms"),
        pytest.param({"pause_ms": 40, "snr_db": 10}, id="pauses of 40 ms, noise of -10 dB"),
    ],
)
def test_keys_are_heard(tone_ms: float, line: dict[str, Any]) -> None:
    """At least 99 of 100 keys on each of these lines, and never a wrong one or the same twice."""
    pressed, audio = dialling(tone_ms, **line)
    missed, false = missed_and_false(pressed, heard(audio))
    assert missed <= 1
    assert false == 0


@pytest.mark.parametrize(
    "deviation", [(0.035, 0.035), (-0.035, -0.035), (0.035, 0), (0, 0.035), (-0.035, 0), (0, -0.035)]
)
@pytest.mark.parametrize("snr_db", [None, 10])
def test_tones_off_their_frequency_are_no_keys(deviation: tuple[float, float], snr_db: float | None) -> None:
    """3.5 % off in either tone: none of 200, of 40 ms and of half a second."""
    for tone_ms in (40, 500):
        assert heard(dialling(tone_ms, deviation=deviation, snr_db=snr_db)[1]) == ""


@pytest.mark.parametrize("snr_db", [None, 15])
def test_tones_of_23_ms_are_no_keys(snr_db: float | None) -> None:
    """The longest tone that Q.24 wants ignored."""
    assert heard(dialling(23, snr_db=snr_db)[1]) == ""


def test_a_twist_far_beyond_the_limits_is_no_key() -> None:
    """One tone much louder than the other is something else."""
    assert heard(dialling(100, twist_db=9)[1]) == ""
    assert heard(dialling(100, twist_db=-13)[1]) == ""


def test_the_same_key_twice_is_two_keys() -> None:
    """40 ms between them suffice, at every place in the frame and in noise."""
    for offset, snr_db in itertools.product(range(0, 160, 7), (None, 10)):
        tone = key_tone("5", 40)
        sound = np.concatenate([np.zeros(400 + offset), tone, silence(40), tone, silence(100)])
        if snr_db is not None:
            sound += noise(len(sound), -7 - snr_db, offset)
        assert heard(ulaw(sound)) == "55"


def test_a_long_tone_is_one_key() -> None:
    """However long, also in noise."""
    sound = np.concatenate([silence(100), key_tone("8", 10_000), silence(100)])
    for audio in (ulaw(sound), ulaw(sound + noise(len(sound), -17))):
        (key,) = DtmfDetector().feed(audio)
        assert key.digit == "8"
        assert key.duration_ms == pytest.approx(10_000, abs=10)


@pytest.mark.parametrize("snr_db", [None, 10])
def test_an_interruption_of_10_ms_does_not_divide_a_key(snr_db: float | None) -> None:
    """At every place, also near the edges of the tone."""
    for at_ms in range(5, 90, 3):
        tone = key_tone("0", 100)
        tone[at_ms * 8 : (at_ms + 10) * 8] = 0
        sound = np.concatenate([np.zeros(403), tone, silence(100)])
        if snr_db is not None:
            sound += noise(len(sound), -7 - snr_db, at_ms)
        assert heard(ulaw(sound)) == "0"


def test_keys_without_a_pause_are_told_apart() -> None:
    """A change of the tone ends one key and begins the next."""
    sound = np.concatenate([silence(50), *(key_tone(key, 60) for key in "1590*#"), silence(100)])
    assert heard(ulaw(sound)) == "1590*#"


# Where and when


@pytest.mark.parametrize("snr_db", [None, 10])
def test_positions_are_those_of_the_tone(snr_db: float | None) -> None:
    """Beginning and end within 6 ms, counted on all the audio that was fed."""
    rng = np.random.default_rng(5)
    for _ in range(100):
        start_ms, length_ms = rng.uniform(20, 300), rng.uniform(40, 300)
        sound = np.concatenate([silence(start_ms), key_tone("6", length_ms), silence(100)])
        if snr_db is not None:
            sound += noise(len(sound), -7 - snr_db, int(rng.integers(1000)))
        (key,) = DtmfDetector().feed(ulaw(sound))
        assert key.start_ms == pytest.approx(start_ms, abs=6)
        assert key.start_ms + key.duration_ms == pytest.approx(start_ms + length_ms, abs=6)


def test_the_result_does_not_depend_on_the_chunks() -> None:
    """Frame by frame, byte by byte, at random or at once: the same keys at the same positions."""
    audio = dialling(50, snr_db=10, count=12)[1]
    expected = DtmfDetector().feed(audio)
    assert len(expected) == 12
    rng = np.random.default_rng(2)
    for sizes in (itertools.repeat(160), itertools.repeat(1), iter(lambda: int(rng.integers(0, 700)), -1)):
        detector = DtmfDetector()
        found: list[DetectedKey] = []
        at = 0
        while at < len(audio):
            size = next(sizes)
            found += detector.feed(audio[at : at + size])
            at += size
        assert found == expected


def test_a_key_is_told_soon() -> None:
    """It is known to be pressed within 60 ms, and told within 60 ms after it was let go; both in frames of 20 ms."""
    for offset in range(0, 160, 11):
        audio = ulaw(np.concatenate([np.zeros(1600 + offset), key_tone("3", 200), silence(200)]))
        detector = DtmfDetector()
        pressed_ms = told_ms = None
        for end in range(160, len(audio) + 1, 160):
            keys = detector.feed(audio[end - 160 : end])
            if pressed_ms is None and detector.pressed is not None:
                pressed_ms = end / 8
                assert detector.pressed == "3"
            if keys:
                told_ms = end / 8
                assert detector.pressed is None
        begins_ms = (1600 + offset) / 8
        assert pressed_ms is not None
        assert 0 < pressed_ms - begins_ms < 60
        assert told_ms is not None
        assert 0 < told_ms - (begins_ms + 200) < 60


def test_the_end_of_the_stream_ends_the_key() -> None:
    """``flush`` tells the key that still sounded, and a new stream begins at 0 ms."""
    detector = DtmfDetector()
    audio = ulaw(np.concatenate([silence(100), key_tone("7", 53)]))
    for _ in range(2):
        assert detector.feed(audio) == []
        (key,) = detector.flush()
        assert key.digit == "7"
        assert key.start_ms == pytest.approx(100, abs=6)
        assert key.duration_ms == pytest.approx(53, abs=10)
        assert detector.pressed is None
        assert detector.flush() == []


# What the detector must not hear


@pytest.mark.parametrize(
    "tones",
    [
        pytest.param((350, 440), id="dial tone"),
        pytest.param((440, 480), id="ringback"),
        pytest.param((480, 620), id="busy"),
        pytest.param((425,), id="European tones"),
        pytest.param((941,), id="a row alone"),
        pytest.param((1336,), id="a column alone"),
        pytest.param((697, 770), id="two rows"),
        pytest.param((1209, 1633), id="two columns"),
        pytest.param((770, 1336, 1477), id="a row and two columns"),
        pytest.param((2100,), id="fax answer"),
        pytest.param((1400, 2060), id="payphone"),
    ],
)
def test_other_tones_are_no_keys(tones: tuple[float, ...]) -> None:
    """Two seconds of them, their beginnings and their ends."""
    assert heard(ulaw(np.concatenate([silence(100), sum(sine(hz, 2000) for hz in tones), silence(100)]))) == ""


def test_silence_and_noise_are_no_keys() -> None:
    """A minute of white noise, loud and soft; digital silence of both signs."""
    assert heard(ulaw(noise(480_000, -15))) == ""
    assert heard(ulaw(noise(480_000, -45))) == ""
    assert heard(SILENCE_FRAME * 100 + b"\x7f" * 16000) == ""


def talk_off(folder: Path, package: str) -> None:
    """No key in any recording of the folder."""
    recordings = sorted(folder.glob("**/*.wav"))
    if not recordings and not os.environ.get("CI"):
        pytest.skip(f"recordings are missing: apt-get install {package}")
    assert recordings
    found = {}
    for path in recordings:
        detector = DtmfDetector()
        if keys := detector.feed(read_ulaw(path)) + detector.flush():
            found[path.name] = keys
    assert found == {}


def test_speech_is_no_keys() -> None:
    """Not one key in 25 minutes of telephone prompts."""
    talk_off(Path("/usr/share/asterisk/sounds/en_US_f_Allison"), "asterisk-core-sounds-en-wav")


def test_music_on_hold_is_no_keys() -> None:
    """Not one key in 18 minutes of music."""
    talk_off(Path("/usr/share/asterisk/moh"), "asterisk-moh-opsound-wav")


def test_what_is_made_is_heard() -> None:
    """All keys, as short as receivers must hear them, behind and before nothing but each other."""
    assert heard(dtmf_tone(DTMF_KEYS * 2, tone_ms=40, pause_ms=40)) == DTMF_KEYS * 2
