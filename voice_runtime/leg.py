"""One Media Stream of a call: its sids, its timeline, its clock.

A call is a session; a session has one leg after the other (a transfer or a dropped socket ends one, the same call's
next stream is the next). Positions and marks never outlive their leg.
"""

from __future__ import annotations

from collections.abc import Callable

from .playout import Timeline

__all__ = ["Leg", "StreamClock"]

_FRAME_MS = 20.0
_CREEP_MS = 0.004  # per frame: follows a sender whose clock is up to 200 ppm slower than ours
_TOGETHER_MS = 25.0  # what waited together with frames is handled together with them


class StreamClock:
    """Maps the timestamps of inbound media (ms, the sender's clock) to our own clock.

    The frame with the least delay shows the true distance of the two clocks. A message that arrives late because
    *we* stood still (or the network did) can so be dated by the newest frame that came before it on the same socket,
    to within one frame.
    """

    __slots__ = ("_arrived_ms", "_newest_ms", "_offset_ms")

    def __init__(self) -> None:
        self._offset_ms = float("inf")
        self._newest_ms = 0.0
        self._arrived_ms = float("-inf")

    def media(self, timestamp_ms: float, now_ms: float) -> None:
        """A media frame with this timestamp arrived now."""
        self._newest_ms = timestamp_ms
        self._arrived_ms = now_ms
        offset = now_ms - timestamp_ms
        creeping = self._offset_ms + _CREEP_MS
        self._offset_ms = offset if offset < creeping else creeping

    def sent_at(self, now_ms: float) -> float:
        """When a message that arrives now was sent, on our clock and as if the network took no time."""
        if now_ms - self._arrived_ms > _TOGETHER_MS:
            return now_ms  # no frame came with it: media is missing, which says nothing about the message
        newest = self._offset_ms + self._newest_ms + _FRAME_MS
        return newest if newest < now_ms else now_ms


def _nothing() -> None:
    """A transport of one's own closes its stream itself."""


class Leg:
    """``wake`` tells the wire that the timeline has something for it; any thread, cheap, never blocks.

    ``hang_up(reason)`` has the transport end the call in its own way: Twilio's REST API first where there are
    credentials, then the socket; any thread, does not wait. ``close()`` lets go of the socket alone: the call goes on
    elsewhere.
    """

    __slots__ = ("call_sid", "close", "hang_up", "stream_clock", "stream_sid", "timeline", "wake")

    def __init__(
        self,
        *,
        call_sid: str,
        stream_sid: str,
        timeline: Timeline,
        wake: Callable[[], None],
        hang_up: Callable[[str], None],
        close: Callable[[], None] | None = None,
    ) -> None:
        self.call_sid = call_sid
        self.stream_sid = stream_sid
        self.timeline = timeline
        self.stream_clock = StreamClock()
        self.wake = wake
        self.hang_up = hang_up
        self.close = close or _nothing
