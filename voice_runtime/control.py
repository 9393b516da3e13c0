"""What a session asks of the carrier besides its stream: keys, transfers, conferences, recordings, the end.

This is the interface. Twilio's side of it is :mod:`voice_runtime.transports.twilio_control`; a server gives each call
one. Methods block as long as the carrier's API takes and may be called from any thread but the event loop's.
"""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from .facts import DialOutcome

__all__ = ["CallControl", "ConferenceOrder", "ConferenceState", "Recording", "TransferOrder"]


class TransferOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to put the call through to, and how. Times in seconds."""

    to: tuple[str, ...]
    announce: str | None = None
    caller_id: str | None = None
    timeout: int = 30


class ConferenceOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Which room to enter, and who is called into it. Times in seconds."""

    room: str
    invite: tuple[str, ...] = ()
    announce: str | None = None
    timeout: int = 30
    start_on_enter: bool = True
    end_on_exit: bool = False
    muted: bool = False
    beep: bool = False
    wait_url: str | None = None


class Recording(Protocol):
    """A recording the carrier makes of a call."""

    @property
    def recording_sid(self) -> str: ...
    def pause(self, *, silence: bool = True) -> bool: ...
    def resume(self) -> bool: ...
    def stop(self) -> bool: ...


class ConferenceState(Protocol):
    """A conference the call is in, or was."""

    @property
    def outcome(self) -> DialOutcome: ...
    @property
    def call_sids(self) -> tuple[str, ...]: ...


class CallControl(Protocol):
    """The carrier's hand on one call."""

    def send_digits(self, digits: str) -> None:
        """Send keys to the far end, then connect a new stream of the call."""

    def transfer(self, order: TransferOrder) -> None:
        """Put the call through; afterwards connect a new stream of it."""

    def conference(self, order: ConferenceOrder) -> ConferenceState:
        """Put the call into a conference and call the guests. When the conference is over, or all guests are gone,
        connect a new stream of the call."""

    def come_back(self) -> None:
        """Take the call back to a new stream, from wherever it is; or end it."""

    def is_over(self) -> bool:
        """Whether the carrier says that the call has ended."""

    def end_call(self) -> bool:
        """End the call, wherever it is; False when it was over already."""

    def start_recording(
        self, *, channels: Literal["mono", "dual"] = "dual", track: Literal["inbound", "outbound", "both"] = "both"
    ) -> Recording:
        """Have the carrier record the call from now on."""
