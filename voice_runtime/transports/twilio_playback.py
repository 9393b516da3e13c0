"""What Twilio does with the audio it is sent: one FIFO of bytes and marks, played at 8 bytes per millisecond.

The rules are those of https://www.twilio.com/docs/voice/media-streams/websocket-messages:

* media of any size is queued and played in order; when the queue runs dry nothing is played, and the next media
  starts at the moment it arrives;
* a mark comes back when everything queued before it has been played, at once when nothing is queued;
* a clear drops what was not played and sends every queued mark back at once, in order;
* ten minutes of audio fit. What does not fit is dropped, with warning 31931 once per stream.

Pure: no thread, socket or clock. Every method takes the time, in milliseconds from an origin of the caller's choice,
and times must not go back. :meth:`PlaybackBuffer.advance` returns what happened, each event with its exact time.
"""

from __future__ import annotations

import collections
from typing import TypeAlias

import msgspec

__all__ = ["BYTES_PER_MS", "CAPACITY_BYTES", "MarkEcho", "Overflow", "PlaybackBuffer", "PlaybackEvent", "Played"]

BYTES_PER_MS = 8
"""μ-law, 8,000 samples of one byte a second."""

CAPACITY_BYTES = 10 * 60 * 1000 * BYTES_PER_MS
"""Ten minutes, https://www.twilio.com/docs/api/errors/31931."""

_EPSILON_BYTES = 1e-4  # a time that is the sum of many floats may miss a sample's edge by a hair


class MarkEcho(msgspec.Struct, frozen=True):
    """A mark comes back. ``flushed``: a clear sent it back, its audio was not played to the end."""

    at_ms: float
    name: str
    flushed: bool = False


class Played(msgspec.Struct, frozen=True):
    """A piece of audio whose first sample was heard at ``at_ms``; the rest follows without a gap."""

    at_ms: float
    data: bytes


class Overflow(msgspec.Struct, frozen=True):
    """Warning 31931: ``dropped`` bytes did not fit. Reported for the first overflow only."""

    at_ms: float
    dropped: int
    code: int = 31931


PlaybackEvent: TypeAlias = MarkEcho | Played | Overflow


class PlaybackBuffer:
    """Twilio's buffer of one bidirectional stream.

    Attributes:
        queued_bytes: audio waiting, as of the last call.
        dropped_bytes: audio that did not fit, in all.
        cleared_bytes: audio dropped by clears, in all.
    """

    def __init__(self, capacity_bytes: int = CAPACITY_BYTES) -> None:
        self._capacity = capacity_bytes
        self._items: collections.deque[bytes | str] = collections.deque()  # audio is bytes, a mark is str
        self._offset = 0  # bytes of the first item already played
        self._run_start_ms = 0.0  # playback has not paused since then ...
        self._run_bytes = 0  # ... and has played so much
        self._now_ms = float("-inf")
        self._events: list[PlaybackEvent] = []
        self.queued_bytes = 0
        self.dropped_bytes = 0
        self.cleared_bytes = 0

    def media(self, data: bytes, now_ms: float) -> None:
        """Queue audio that arrives now."""
        self._play(now_ms)
        room = self._capacity - self.queued_bytes
        if len(data) > room:
            if not self.dropped_bytes:
                self._events.append(Overflow(now_ms, len(data) - room))
            self.dropped_bytes += len(data) - room
            data = data[:room]
        if not data:
            return
        if not self._items:
            self._run_start_ms = now_ms
            self._run_bytes = 0
        self._items.append(data)
        self.queued_bytes += len(data)

    def mark(self, name: str, now_ms: float) -> None:
        """Queue a mark that arrives now."""
        self._play(now_ms)
        if self._items:
            self._items.append(name)
        else:
            self._events.append(MarkEcho(now_ms, name))

    def clear(self, now_ms: float) -> int:
        """Drop what was not played and send the marks back. Returns the number of bytes dropped."""
        self._play(now_ms)
        dropped = self.queued_bytes
        self._events.extend(MarkEcho(now_ms, item, flushed=True) for item in self._items if isinstance(item, str))
        self._items.clear()
        self._offset = 0
        self.queued_bytes = 0
        self.cleared_bytes += dropped
        return dropped

    def advance(self, now_ms: float) -> list[PlaybackEvent]:
        """Everything that happened up to and at ``now_ms`` and was not returned before, in order."""
        self._play(now_ms)
        events = self._events
        if events:
            self._events = []
        return events

    def next_event_ms(self) -> float | None:
        """When the next mark comes back if nothing else arrives; None when none is queued.

        A mark or a warning that was not fetched yet is due at its own time, which is past.
        """
        for event in self._events:
            if not isinstance(event, Played):
                return event.at_ms
        ahead = -self._offset
        for item in self._items:
            if isinstance(item, str):
                return self._run_start_ms + (self._run_bytes + ahead) / BYTES_PER_MS
            ahead += len(item)
        return None

    def idle_at_ms(self) -> float | None:
        """When the last queued byte will have been played; None when nothing is queued."""
        if not self._items:
            return None
        return self._run_start_ms + (self._run_bytes + self.queued_bytes) / BYTES_PER_MS

    def _play(self, now_ms: float) -> None:
        if now_ms < self._now_ms:
            raise ValueError(f"time went back: {now_ms} ms after {self._now_ms} ms; pass times that never decrease")
        self._now_ms = now_ms
        items = self._items
        if not items:
            return
        playable = int((now_ms - self._run_start_ms) * BYTES_PER_MS + _EPSILON_BYTES) - self._run_bytes
        began_ms = self._run_start_ms + self._run_bytes / BYTES_PER_MS
        played: list[bytes] = []
        while items:
            item = items[0]
            if isinstance(item, str):
                self._flush_played(began_ms, played)
                began_ms = self._run_start_ms + self._run_bytes / BYTES_PER_MS
                self._events.append(MarkEcho(began_ms, item))
                items.popleft()
                continue
            if playable <= 0:
                break
            left = len(item) - self._offset
            if left <= playable:
                played.append(item[self._offset :] if self._offset else item)
                items.popleft()
                self._offset = 0
                step = left
            else:
                step = playable
                played.append(item[self._offset : self._offset + step])
                self._offset += step
            playable -= step
            self._run_bytes += step
            self.queued_bytes -= step
        self._flush_played(began_ms, played)

    def _flush_played(self, began_ms: float, played: list[bytes]) -> None:
        if played:
            self._events.append(Played(began_ms, b"".join(played)))
            played.clear()
