"""Voice activity: is somebody speaking in this frame, and where does speech begin and end."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, cast

from . import registry
from .events import SpeechEnded, SpeechStarted

__all__ = ["FRAME_BYTES", "FRAME_MS", "SpeechSegmenter", "VoiceActivityDetector", "create_vad"]

FRAME_MS = 20.0
FRAME_BYTES = 160
"""A frame: 20 ms of μ-law at 8 kHz, as Twilio sends it."""


class VoiceActivityDetector(abc.ABC):
    """Says for each frame how likely it holds speech. Keeps state: one object per stream, one thread at a time."""

    name: ClassVar[str]

    @abc.abstractmethod
    def process(self, ulaw_frame: bytes) -> float:
        """The probability (0 to 1) that this 20 ms frame (160 bytes, μ-law 8 kHz) holds speech.

        Raises:
            ValueError: the frame has another size.
        """

    @abc.abstractmethod
    def reset(self) -> None:
        """Forget everything: the next frame belongs to another stream."""

    def close(self) -> None:  # noqa: B027 - most detectors hold nothing
        """Give back what it holds; the object is not used afterwards. May be repeated."""


class SpeechSegmenter:
    """Turns a probability per frame into the beginnings and ends of speech. Pure: no clock, no thread.

    Speech begins with the first frame of an unbroken run of at least ``start_ms`` at or above ``threshold``. It ends
    where the last such frame ended, once ``end_ms`` have passed with everything below ``release``. Both events carry
    those positions, which lie in the past by ``start_ms`` and ``end_ms``.

    Args:
        threshold: probability from which a frame counts as speech.
        release: probability below which a frame counts as silence while somebody speaks; frames in between
            prolong speech without starting it. Default: 0.15 below ``threshold``.
        start_ms: how long speech must last to begin; shorter is a click.
        end_ms: how long silence must last to end speech. Pauses inside fluent sentences stay below 500 ms.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        release: float | None = None,
        start_ms: float = 60.0,
        end_ms: float = 500.0,
    ) -> None:
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold must lie above 0 and not above 1, not {threshold!r}")
        if start_ms < 0 or end_ms < 0:
            raise ValueError(f"start_ms and end_ms cannot be negative, not {start_ms!r} and {end_ms!r}")
        self.threshold = threshold
        self.release = max(0.0, threshold - 0.15) if release is None else release
        self.start_ms = start_ms
        self.end_ms = end_ms
        self.reset()

    def reset(self) -> None:
        """Begin at position zero, in silence."""
        self.position_ms = 0.0
        self.speaking = False
        self._run_ms = 0.0
        self._spoken_to_ms = 0.0

    def push(self, probability: float, duration_ms: float = FRAME_MS) -> SpeechStarted | SpeechEnded | None:
        """Take the probability of the next ``duration_ms`` of audio; at most one thing happens."""
        self.position_ms += duration_ms
        if not self.speaking:
            if probability < self.threshold:
                self._run_ms = 0.0
                return None
            self._run_ms += duration_ms
            if self._run_ms < self.start_ms:
                return None
            self.speaking = True
            self._spoken_to_ms = self.position_ms
            return SpeechStarted(at_ms=self.position_ms - self._run_ms)
        if probability >= self.release:
            self._spoken_to_ms = self.position_ms
        elif self.position_ms - self._spoken_to_ms >= self.end_ms:
            return self._end()
        return None

    def finish(self) -> SpeechEnded | None:
        """The audio ends here: end speech that is under way."""
        return self._end() if self.speaking else None

    def _end(self) -> SpeechEnded:
        self.speaking = False
        self._run_ms = 0.0
        return SpeechEnded(at_ms=self._spoken_to_ms)


def create_vad(provider: str | None = None, **kwargs: Any) -> VoiceActivityDetector:
    """A detector by its registry name; None takes "silero" where it is installed and "energy" otherwise.

    Silero is never fooled by ringback, DTMF or hold music, which an energy detector takes for speech.

    Raises:
        ProviderNotFoundError: "Unknown VAD provider ...".
        ProviderUnavailableError: its extra is not installed.
    """
    if provider is None:
        provider = "silero" if registry.is_provider_available("vad", "silero") else "energy"
    return cast("VoiceActivityDetector", registry.load_class("vad", provider)(**kwargs))
