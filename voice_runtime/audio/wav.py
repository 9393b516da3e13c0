"""WAV files: any common one read as telephone audio, and μ-law recordings that survive a crash.

The container is RIFF/WAVE (*Multimedia Programming Interface and Data Specifications 1.0*, IBM and Microsoft, 1991);
format tags 1 (PCM), 6 (A-law) and 7 (μ-law) and the ``fact`` chunk that non-PCM formats need are from Microsoft's
*New Multimedia Data Types and Data Techniques*, revision 3. The standard library's ``wave`` knows PCM only.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
import warnings
from types import TracebackType
from typing import BinaryIO, NamedTuple

from ..exceptions import AudioFormatError
from .frames import SAMPLE_RATE
from .g711 import alaw_to_pcm16, pcm16_to_ulaw, ulaw_to_pcm16

with warnings.catch_warnings():
    # As in g711: deprecated in the standard library of 3.11 and 3.12, a package of its own afterwards.
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

__all__ = ["HEADER_BYTES", "AudioFormatError", "UlawWavWriter", "read_ulaw", "ulaw_wav_header"]

HEADER_BYTES = 58
"""Size of the header this module writes: RIFF 12, ``fmt`` 8 + 18, ``fact`` 8 + 4, ``data`` 8."""

_PCM, _FLOAT, _ALAW, _ULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE
_SIZE_LIMIT = 0xFFFFFFFF
# Programs that write to a pipe cannot know the size: ffmpeg puts 0xFFFFFFFF, SoX 0x7FFFFFFF less the header.
_SIZE_UNKNOWN = 0x7FFFF000


class _Format(NamedTuple):
    tag: int
    channels: int
    rate: int
    bits: int


def read_ulaw(source: str | os.PathLike[str] | bytes) -> bytes:
    """A WAV file as μ-law for the line: 8,000 Hz, one channel, no header.

    Reads PCM of 8, 16, 24 and 32 bits, A-law and μ-law, one or two channels (two are averaged), any rate from 1 to
    384 kHz. A μ-law file that already fits comes back byte for byte. The length is the file's own, to the sample.

    Args:
        source: a path, or the file's bytes.

    Raises:
        AudioFormatError: not a WAV file, cut short, or a format not named above (floating point, MP3 inside WAV ...).
        OSError: the file cannot be opened.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, content = "the audio", bytes(source)
    else:
        name = os.fspath(source)
        with open(source, "rb") as file:
            content = file.read()
    form, data = _parse(name, content)
    data = data[: len(data) - len(data) % (form.channels * form.bits // 8)]
    if form.tag == _ULAW and form.channels == 1 and form.rate == SAMPLE_RATE:
        return data
    pcm16 = _to_pcm16(form, data)
    if form.channels == 2:
        pcm16 = audioop.tomono(pcm16, 2, 0.5, 0.5)
    if form.rate != SAMPLE_RATE:
        pcm16 = _to_line_rate(name, pcm16, form.rate)
    return pcm16_to_ulaw(pcm16)


def _parse(name: str, content: bytes) -> tuple[_Format, bytes]:
    if len(content) < 12 or content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        began = content[:12] or b"nothing"
        raise AudioFormatError(
            f"{name} is not a WAV file: RIFF....WAVE was expected at its beginning, {began!r} came. "
            f"Convert it, for example with: sox input -r 8000 -c 1 -e mu-law output.wav"
        )
    form: _Format | None = None
    at = 12
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<4sI", content, at)
        at += 8
        here = len(content) - at
        if kind == b"fmt ":
            form = _parse_format(name, content[at : at + size])
        elif kind == b"data":
            if form is None:
                raise AudioFormatError(
                    f"{name} has its audio before the 'fmt ' chunk that describes it: damaged file."
                )
            if size > here and size < _SIZE_UNKNOWN:
                raise AudioFormatError(
                    f"{name} is cut short: its header announces {size} bytes of audio, {here} are there. "
                    f"Copy or download it again."
                )
            return form, content[at : at + size]
        at += size + size % 2
    missing = "audio ('data' chunk)" if form is not None else "description of its audio ('fmt ' chunk)"
    raise AudioFormatError(f"{name} is cut short or damaged: it has no {missing} in its {len(content)} bytes.")


def _parse_format(name: str, chunk: bytes) -> _Format:
    if len(chunk) < 16:
        raise AudioFormatError(f"{name} is cut short or damaged: its 'fmt ' chunk has {len(chunk)} bytes, not 16.")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE and len(chunk) >= 26:
        (tag,) = struct.unpack_from("<H", chunk, 24)  # the first two bytes of the sub-format are the old tag
    expected = {_PCM: (8, 16, 24, 32), _ALAW: (8,), _ULAW: (8,)}.get(tag)
    if expected is None:
        kind = "floating-point samples" if tag == _FLOAT else f"format {tag:#06x}"
        raise AudioFormatError(
            f"{name} holds {kind}; PCM, A-law or μ-law was expected. "
            f"Convert it, for example with: sox input.wav -b 16 -e signed-integer output.wav"
        )
    if bits not in expected:
        raise AudioFormatError(f"{name} has {bits} bits a sample; {' or '.join(map(str, expected))} were expected.")
    if channels not in (1, 2):
        raise AudioFormatError(f"{name} has {channels} channels; 1 or 2 were expected.")
    return _Format(tag, channels, rate, bits)


def _to_pcm16(form: _Format, data: bytes) -> bytes:
    if form.tag == _ULAW:
        return ulaw_to_pcm16(data)
    if form.tag == _ALAW:
        return alaw_to_pcm16(data)
    if form.bits == 8:
        data = audioop.bias(data, 1, -128)  # PCM of 8 bits is unsigned in WAV, and only there
    elif sys.byteorder == "big":
        data = audioop.byteswap(data, form.bits // 8)
    return data if form.bits == 16 else audioop.lin2lin(data, form.bits // 8, 2)


def _to_line_rate(name: str, pcm16: bytes, rate: int) -> bytes:
    from .resample import MAX_RATE, MIN_RATE, Resampler

    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioFormatError(f"{name} has a rate of {rate} Hz; {MIN_RATE} to {MAX_RATE} were expected.")
    resampler = Resampler(rate, SAMPLE_RATE)
    length = -(-len(pcm16) // 2 * SAMPLE_RATE // rate)
    delay = resampler.delay_samples
    converted = resampler.process(pcm16) + resampler.flush()
    return converted[2 * delay : 2 * (delay + length)]


def ulaw_wav_header(samples: int, channels: int = 1) -> bytes:
    """The 58 bytes in front of ``samples`` samples (per channel) of μ-law at 8,000 Hz.

    Sizes that 32 bits cannot hold (over 74 hours of stereo) are written as the largest they can.
    """
    size = samples * channels
    return struct.pack(
        "<4sI4s4sIHHIIHHH4sII4sI",
        b"RIFF",
        min(HEADER_BYTES - 8 + size + size % 2, _SIZE_LIMIT),
        b"WAVE",
        b"fmt ",
        18,
        _ULAW,
        channels,
        SAMPLE_RATE,
        SAMPLE_RATE * channels,
        channels,
        8,
        0,
        b"fact",
        4,
        min(samples, _SIZE_LIMIT),
        b"data",
        min(size, _SIZE_LIMIT),
    )


class UlawWavWriter:
    """A μ-law WAV file at 8,000 Hz that can be opened at any moment while it is written.

    The bytes go to the operating system as they come, and the sizes in the header are brought up to date at least
    every second of audio: killing the process loses one second at most. The file is readable by its owner alone
    (mode 0600); one of the same name is replaced.

    A full disk, or any other error of the file system after opening, ends the recording and nothing else: no method
    raises, ``error`` keeps the reason, ``truncated`` turns true, and what was written before stays a valid file.

    For one thread at a time; writing may block for as long as the disk does, so not the event loop's.

    Args:
        path: where to write. The folder must exist.
        channels: 1, or 2 with the bytes of both channels alternating, left first.

    Raises:
        OSError: the file cannot be created.
        ValueError: another number of channels.
    """

    def __init__(self, path: str | os.PathLike[str], channels: int = 1) -> None:
        if channels not in (1, 2):
            raise ValueError(f"A recording has 1 or 2 channels; {channels!r} came.")
        self.path = os.fspath(path)
        self.channels = channels
        self.error: OSError | None = None
        """What ended the recording early."""
        self._size = 0  # bytes of audio in the file
        self._announced = 0  # bytes of audio the header tells of
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(self.path, flags, 0o600)
        self._file: BinaryIO = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            if hasattr(os, "fchmod") and stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.fchmod(descriptor, 0o600)  # the file may have existed with another mode
            self._put(0, ulaw_wav_header(0, channels))
        except OSError:
            self._file.close()
            raise

    @property
    def samples(self) -> int:
        """Samples (per channel) in the file."""
        return self._size // self.channels

    @property
    def truncated(self) -> bool:
        """Whether something that was given to be written is missing."""
        return self.error is not None

    def write(self, audio: bytes) -> bool:
        """Append raw μ-law bytes; False when they could not all be written."""
        if self.error is not None or self._file.closed:
            return False
        try:
            self._append(audio)
            if self._size - self._announced >= SAMPLE_RATE * self.channels // 2:
                self._announce()
        except OSError as error:
            self._fail(error)
            return False
        return True

    def rewrite(self, at: int, audio: bytes) -> bool:
        """Replace audio already in the file, from sample ``at`` (per channel) on; False when that was not possible.

        What reaches beyond the end is appended.
        """
        start = at * self.channels
        inside = max(0, min(len(audio), self._size - start))
        if inside and self.error is None and not self._file.closed:
            try:
                self._put(HEADER_BYTES + start, audio[:inside])
            except OSError as error:
                self._fail(error)
        return self.write(audio[inside:])

    def read(self, at: int, samples: int) -> bytes:
        """Audio already in the file: ``samples`` samples (per channel) from ``at`` on, fewer at the end."""
        start = at * self.channels
        count = min(samples * self.channels, self._size - start)
        if count <= 0 or self.error is not None or self._file.closed:
            return b""
        try:
            self._file.seek(HEADER_BYTES + start)
            return self._file.read(count) or b""
        except OSError as error:
            self._fail(error)
            return b""

    def sync_header(self) -> None:
        """Make the header tell of everything written so far."""
        if self.error is None and not self._file.closed and self._announced != self._size:
            try:
                self._announce()
            except OSError as error:
                self._fail(error)

    def close(self) -> None:
        """Complete the file. May be called again."""
        if self._file.closed:
            return
        if self.error is None:
            try:
                self._announce()
                if self._size % 2:
                    self._put(HEADER_BYTES + self._size, b"\0")  # RIFF chunks end on even bytes
            except OSError as error:
                self._fail(error)
        try:
            self._file.close()
        except OSError as error:  # network file systems and quotas report here what they could not store
            self.error = self.error or error

    def __enter__(self) -> UlawWavWriter:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, audio: bytes) -> None:
        self._file.seek(HEADER_BYTES + self._size)
        left = memoryview(audio)
        while left:
            written = self._file.write(left)  # a disk that fills up takes a part first and refuses the rest
            self._size += written
            left = left[written:]

    def _put(self, offset: int, content: bytes) -> None:
        self._file.seek(offset)
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]

    def _announce(self) -> None:
        self._put(0, ulaw_wav_header(self.samples, self.channels))
        self._announced = self._size

    def _fail(self, error: OSError) -> None:
        if self.error is not None:
            return
        self.error = error
        try:
            self._announce()  # overwrites bytes that exist, so it needs no space
        except OSError:
            pass  # the header of a moment ago is still there, and valid
