"""Changing the sample rate of a stream: exact counts, no seams, no folding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from voice_runtime.audio.resample import MAX_RATE, MIN_RATE, Resampler, _bank

RATES = [
    (24000, 8000),
    (22050, 8000),
    (16000, 8000),
    (32000, 8000),
    (44100, 8000),
    (48000, 8000),
    (8000, 16000),
    (8000, 22050),
    (8000, 24000),
    (8000, 44100),
    (8000, 48000),
    (16000, 24000),
]


def tone(hz: float, rate: int, seconds: float = 1.0, amplitude: float = 16000) -> bytes:
    t = np.arange(round(rate * seconds)) / rate
    return np.rint(amplitude * np.sin(2 * np.pi * hz * t)).astype(np.int16).tobytes()


def noise(count: int, seed: int = 1) -> bytes:
    values = np.random.default_rng(seed).normal(0, 9000, count)
    return values.clip(-32768, 32767).astype(np.int16).tobytes()


def samples(pcm16: bytes) -> NDArray[np.float64]:
    return np.frombuffer(pcm16, np.int16).astype(np.float64)


def level_db(signal: NDArray[np.float64], reference: float = 16000 / math.sqrt(2)) -> float:
    return 20 * math.log10(max(float(np.sqrt(np.mean(signal**2))), 1e-9) / reference)


def without_tone(signal: NDArray[np.float64], hz: float, rate: int) -> NDArray[np.float64]:
    """What is left when the best fitting sine of that frequency is taken out."""
    t = 2 * np.pi * hz * np.arange(len(signal)) / rate
    basis = np.stack([np.sin(t), np.cos(t)], axis=1)
    fit, *_ = np.linalg.lstsq(basis, signal, rcond=None)
    rest: NDArray[np.float64] = signal - basis @ fit
    return rest


def pieces(stream: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        yield stream[at : at + size]
        at, turn = at + size, turn + 1


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_every_frame_gives_a_frame(from_hz: int, to_hz: int) -> None:
    """20 ms in are 20 ms out, at once, frame after frame."""
    resampler = Resampler(from_hz, to_hz)
    frame_in, frame_out = from_hz // 50, to_hz // 50
    stream = noise(frame_in * 25)
    sizes = {len(resampler.process(piece)) for piece in pieces(stream, [2 * frame_in])}
    assert sizes == {2 * frame_out}
    assert len(resampler.flush()) == 2 * resampler.delay_samples


@pytest.mark.parametrize(("from_hz", "to_hz"), [*RATES, (11025, 8000), (8000, 11025), (8000, 7919), (12345, 8000)])
@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 2500), min_size=1, max_size=12), seed=st.integers(0, 1000))
def test_output_does_not_depend_on_the_chunks(from_hz: int, to_hz: int, sizes: list[int], seed: int) -> None:
    """Any cutting, even through the middle of samples, gives the same bytes; and always as many as are due."""
    stream = noise(4000, seed)
    whole = Resampler(from_hz, to_hz)
    expected = whole.process(stream) + whole.flush()
    resampler = Resampler(from_hz, to_hz)
    came, taken = b"", 0
    for piece in pieces(stream, sizes):
        came += resampler.process(piece)
        taken += len(piece)
        assert len(came) // 2 == -(-(taken // 2) * to_hz // from_hz)
    assert came + resampler.flush() == expected


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_a_tone_stays_clean(from_hz: int, to_hz: int) -> None:
    """1 kHz comes out as 1 kHz of the same level, everything else at least 90 dB below."""
    out = samples(Resampler(from_hz, to_hz).process(tone(1000, from_hz)))[to_hz // 50 :]
    assert level_db(out) == pytest.approx(0, abs=0.02)
    assert level_db(without_tone(out, 1000, to_hz)) < -90


@pytest.mark.parametrize("from_hz", [16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("hz", [4200, 4600, 5000, 6500, 7900])
def test_what_the_line_cannot_carry_does_not_fold_into_it(from_hz: int, hz: int) -> None:
    """Tones above 4.1 kHz are gone at 8 kHz: nothing of them is left above -80 dB."""
    out = samples(Resampler(from_hz, 8000).process(tone(hz, from_hz)))[160:]
    assert level_db(out) < -80


@pytest.mark.parametrize("to_hz", [16000, 22050, 24000, 48000])
@pytest.mark.parametrize("hz", [300, 1900, 3400])
def test_raising_the_rate_adds_no_images(to_hz: int, hz: int) -> None:
    """Between 4 kHz and half the new rate there is nothing above -80 dB."""
    out = samples(Resampler(8000, to_hz).process(tone(hz, 8000)))[to_hz // 50 :]
    assert level_db(without_tone(out, hz, to_hz)) < -80


@pytest.mark.parametrize("from_hz", [16000, 24000, 44100])
@pytest.mark.parametrize("hz", [200, 1000, 3000, 3400])
def test_the_telephone_band_is_kept(from_hz: int, hz: int) -> None:
    """Up to 3.4 kHz nothing loses more than 0.6 dB."""
    out = samples(Resampler(from_hz, 8000).process(tone(hz, from_hz)))[160:]
    assert -0.6 < level_db(out) < 0.05


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_the_delay_is_what_it_says(from_hz: int, to_hz: int) -> None:
    """A click comes out ``delay_samples`` later, about 3 ms at the lower of both rates in the telephone's range."""
    resampler = Resampler(from_hz, to_hz)
    click = np.zeros(from_hz // 10, np.int16)
    click[0] = 30000
    out = np.abs(samples(resampler.process(click.tobytes())))
    assert int(np.argmax(out)) == resampler.delay_samples
    assert resampler.delay_samples / to_hz <= 0.00305


def test_speech_survives_there_and_back(prompt: Callable[[str], bytes]) -> None:
    """Human speech, raised to each rate and lowered again in odd pieces, keeps what lies in the telephone's band."""
    speech = prompt("basic-pbx-ivr-main")[: 2 * 8000 * 6]
    for rate in (16000, 22050, 24000, 44100, 48000):
        up, down = Resampler(8000, rate), Resampler(rate, 8000)
        raised = up.process(speech) + up.flush()
        again = b"".join(down.process(piece) for piece in pieces(raised, [999, 320, 1])) + down.flush()
        late = up.delay_samples / rate + down.delay_samples / 8000  # seconds, not always whole samples
        hz = np.fft.rfftfreq(2 * len(speech), 1 / 8000)
        kept = hz < 3200  # where the pass band ends both differ by design
        before = np.fft.rfft(samples(speech), 2 * len(speech))[kept]
        after = np.fft.rfft(samples(again), 2 * len(speech))[kept] * np.exp(2j * np.pi * hz[kept] * late)
        error = float(np.sum(np.abs(before - after) ** 2))
        signal = float(np.sum(np.abs(before) ** 2))
        assert 10 * math.log10(signal / error) > 40, rate


def test_the_tail_belongs_to_the_stream() -> None:
    """What was said in the last 3 ms is in the flush, which then is ready for a new stream."""
    resampler = Resampler(16000, 8000)
    stream = noise(333)
    first = resampler.process(stream) + resampler.flush()
    assert level_db(samples(first[-40:])) > -60
    assert resampler.process(stream) + resampler.flush() == first


def test_full_scale_clips() -> None:
    """A square wave at full scale overshoots in any filter; it is clipped and does not wrap around."""
    square = np.where(np.arange(24000) // 240 % 2, 32767, -32768).astype(np.int16)
    out = samples(Resampler(24000, 8000).process(square.tobytes()))
    assert out.max() == 32767
    assert out.min() == -32768
    halves = out[24 : 24 + 7920].reshape(-1, 80)[2:, 10:70]  # away from the edges, which take a few samples
    assert (halves[0::2] < -20000).all()
    assert (halves[1::2] > 20000).all()


@pytest.mark.parametrize(("from_hz", "to_hz"), [*RATES, (8000, 7919)])
def test_every_sum_is_exact(from_hz: int, to_hz: int) -> None:
    """All coefficients are whole and no sum leaves the 53 bits of a float, so the order of additions is no matter."""
    common = math.gcd(from_hz, to_hz)
    matrices = _bank(to_hz // common, from_hz // common).matrices
    assert (matrices == np.rint(matrices)).all()
    assert np.abs(matrices).sum(axis=1).max() * 32768 < 2**53


def test_equal_rates_change_nothing() -> None:
    """The audio passes byte for byte and without delay."""
    resampler = Resampler(8000, 8000)
    assert resampler.process(b"abc") == b"ab"
    assert resampler.process(b"d") == b"cd"
    assert resampler.flush() == b""
    assert resampler.delay_samples == 0


def test_nothing_in_nothing_out() -> None:
    """Empty input gives empty output, and a stream that never began has no tail."""
    resampler = Resampler(24000, 8000)
    assert resampler.process(b"") == b""
    assert resampler.flush() == b""
    assert resampler.process(b"\0") == b""
    assert resampler.flush() == b""


def test_digital_silence_stays_digital_silence() -> None:
    """Zeros in are zeros out: nothing hums."""
    resampler = Resampler(22050, 8000)
    assert not any(resampler.process(bytes(44100)) + resampler.flush())


@pytest.mark.parametrize("rate", [0, -8000, MIN_RATE - 1, MAX_RATE + 1, 8000.0])
def test_impossible_rates_are_refused(rate: int) -> None:
    """A rate out of range or not whole is an error that names the argument and the range."""
    with pytest.raises(ValueError, match=f"from_hz.*{MIN_RATE} to {MAX_RATE}.*{rate}"):
        Resampler(rate, 8000)
    with pytest.raises(ValueError, match="to_hz"):
        Resampler(8000, rate)
