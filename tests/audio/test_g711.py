"""G.711 against published numbers and against the recommendation's own arithmetic."""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Callable

import pytest

from voice_runtime.audio.g711 import (
    alaw_to_pcm16,
    alaw_to_ulaw,
    pcm16_to_alaw,
    pcm16_to_ulaw,
    ulaw_to_alaw,
    ulaw_to_pcm16,
)

ALL_BYTES = bytes(range(256))


def samples(pcm16: bytes) -> tuple[int, ...]:
    return struct.unpack(f"={len(pcm16) // 2}h", pcm16)


def pcm16(*values: int) -> bytes:
    return struct.pack(f"={len(values)}h", *values)


def g711_ulaw(code: int) -> int:
    """ITU-T G.711 table 2, scaled to 16 bits."""
    code = ~code & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84
    return -magnitude if code & 0x80 else magnitude


def g711_alaw(code: int) -> int:
    """ITU-T G.711 table 1, scaled to 16 bits."""
    code ^= 0x55
    segment, step = (code >> 4) & 7, code & 0x0F
    magnitude = (step << 4) + 8 if segment == 0 else ((step << 4) + 0x108) << (segment - 1)
    return magnitude if code & 0x80 else -magnitude


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (0x00, -32124),
        (0x01, -31100),
        (0x10, -15996),
        (0x55, -716),
        (0x7E, -8),
        (0x7F, 0),
        (0x80, 32124),
        (0x81, 31100),
        (0xAA, 5372),
        (0xD5, 716),
        (0xFE, 8),
        (0xFF, 0),
    ],
)
def test_ulaw_decodes_to_published_values(code: int, value: int) -> None:
    """A μ-law byte has the value that other implementations give it."""
    assert samples(ulaw_to_pcm16(bytes([code]))) == (value,)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (-32768, 0x00),
        (-8000, 0x20),
        (-1000, 0x4E),
        (-100, 0x72),
        (-1, 0x7E),
        (0, 0xFF),
        (1, 0xFF),
        (100, 0xF2),
        (1000, 0xCE),
        (8000, 0xA0),
        (32767, 0x80),
    ],
)
def test_ulaw_encodes_to_published_bytes(value: int, code: int) -> None:
    """A sample becomes the byte that other implementations make of it; -1 included, where many tables differ."""
    assert pcm16_to_ulaw(pcm16(value)) == bytes([code])


def test_ulaw_decodes_a_tone_frame() -> None:
    """20 samples of 400 Hz at amplitude 8,000 encode to the published bytes."""
    from math import pi, sin

    tone = pcm16(*(round(8000 * sin(2 * pi * 400 * n / 8000)) for n in range(20)))
    assert pcm16_to_ulaw(tone).hex() == "ffbbada6a1a0a1a6adbbff3b2d26212021262d3b"


@pytest.mark.skipif(sys.byteorder == "big", reason="the digest is of little-endian samples")
def test_all_256_ulaw_values() -> None:
    """The whole decoding table has the published digest."""
    digest = hashlib.sha256(ulaw_to_pcm16(ALL_BYTES)).hexdigest()
    assert digest == "3dab54339e520bb2c924826e3b72a917a2b612e9fd12fc867500f1d983a75827"


def test_tables_are_those_of_the_recommendation() -> None:
    """All 256 bytes of both laws decode to what G.711 defines."""
    assert samples(ulaw_to_pcm16(ALL_BYTES)) == tuple(map(g711_ulaw, ALL_BYTES))
    assert samples(alaw_to_pcm16(ALL_BYTES)) == tuple(map(g711_alaw, ALL_BYTES))


def test_decoding_and_encoding_again_changes_nothing() -> None:
    """Every byte survives the round trip; μ-law's negative zero becomes the positive one."""
    assert pcm16_to_ulaw(ulaw_to_pcm16(ALL_BYTES)) == ALL_BYTES.replace(b"\x7f", b"\xff")
    assert pcm16_to_alaw(alaw_to_pcm16(ALL_BYTES)) == ALL_BYTES


def test_no_sample_lands_further_than_half_a_step() -> None:
    """Each of the 65,536 samples becomes a byte whose interval holds it, but for the bits G.711 has no room for.

    μ-law is defined on 14 bits and A-law on 13, so up to 3 and 7 are cut off first; beyond the last step it clips.
    """
    values = range(-32768, 32768)
    stream = pcm16(*values)
    ulaw, alaw = pcm16_to_ulaw(stream), pcm16_to_alaw(stream)
    for value, code in zip(values, ulaw, strict=True):
        step = 8 << ((~code >> 4) & 7)
        assert abs(g711_ulaw(code) - value) <= max(step // 2 + 3, abs(value) - 32124), value
    for value, code in zip(values, alaw, strict=True):
        step = 16 << max(0, (((code ^ 0x55) >> 4) & 7) - 1)
        assert abs(g711_alaw(code) - value) <= max(step // 2 + 7, abs(value) - 32256), value


def test_between_the_laws() -> None:
    """A-law and μ-law convert into each other through their values, byte for byte."""
    assert alaw_to_ulaw(ALL_BYTES) == pcm16_to_ulaw(alaw_to_pcm16(ALL_BYTES))
    assert ulaw_to_alaw(ALL_BYTES) == pcm16_to_alaw(ulaw_to_pcm16(ALL_BYTES))


@pytest.mark.parametrize("convert", [pcm16_to_ulaw, pcm16_to_alaw])
def test_half_a_sample_is_refused(convert: Callable[[bytes], bytes]) -> None:
    """An odd number of PCM16 bytes is an error that says what came and what to do."""
    with pytest.raises(ValueError, match=r"even number.*3 came.*next chunk"):
        convert(b"abc")


@pytest.mark.parametrize(
    "convert", [ulaw_to_pcm16, pcm16_to_ulaw, alaw_to_pcm16, pcm16_to_alaw, alaw_to_ulaw, ulaw_to_alaw]
)
def test_nothing_stays_nothing(convert: Callable[[bytes], bytes]) -> None:
    """No audio converts to no audio."""
    assert convert(b"") == b""


def test_speech_keeps_its_quality(prompt: Callable[[str], bytes]) -> None:
    """Human speech through μ-law keeps at least 30 dB between itself and the noise."""
    speech = samples(prompt("basic-pbx-ivr-main"))
    again = samples(ulaw_to_pcm16(pcm16_to_ulaw(pcm16(*speech))))
    noise = sum((a - b) ** 2 for a, b in zip(again, speech, strict=True))
    assert sum(a * a for a in speech) / noise > 1000
