"""What the verbs of a call return."""

from __future__ import annotations

import msgspec

from .events import Outcome
from .facts import DialOutcome

__all__ = ["ConferenceResult", "GatherResult", "ListenResult", "PlayResult", "SayResult", "TransferResult"]


class SayResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of something said.

    ``heard_text`` and ``heard_ms`` are what reached the caller, taken from Twilio's marks: after an interruption the
    text ends with the last word that was heard for the most part. ``duration_ms`` is how much audio was made of it.
    """

    text: str
    heard_text: str
    heard_ms: float
    duration_ms: float
    outcome: Outcome
    error: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the caller heard all of it."""
        return self.outcome is Outcome.PLAYED


class PlayResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a recording that was played (times in ms)."""

    name: str
    heard_ms: float
    duration_ms: float
    outcome: Outcome

    @property
    def complete(self) -> bool:
        """Whether the caller heard all of it."""
        return self.outcome is Outcome.PLAYED


class ListenResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller said, or why there is nothing.

    Attributes:
        text: the words; empty when there are none.
        choice: the entry of ``expect`` that was heard; None when nothing was expected or nothing matched.
        reason: ``speech``; ``no_match`` (there was speech, but nothing that was expected); ``silence``; as the
            ``partial`` of a CallHangupError ``hung_up``.
        start_ms, end_ms: where the speech lies on the caller's audio of this call.

    True where there is something to work with: a choice when choices were given, else any words.
    """

    text: str = ""
    choice: str | None = None
    reason: str = "silence"
    start_ms: float = 0.0
    end_ms: float = 0.0

    def __bool__(self) -> bool:
        return self.reason == "speech"

    def __str__(self) -> str:
        return self.text


class GatherResult(msgspec.Struct, frozen=True, kw_only=True):
    """The keys the caller pressed, or what they said, whichever came first.

    Attributes:
        digits: the keys without the terminator, or the digits that were said.
        text, choice: as in :class:`ListenResult`, when it was said.
        terminated: whether the terminator ended the entry.
        reason: ``keys``; ``incomplete`` (fewer keys than asked for); ``speech``; ``no_match``; ``silence``; as the
            ``partial`` of a CallHangupError ``hung_up``.
        start_ms, end_ms: where speech lies on the caller's audio.

    True where it is what was asked for.
    """

    digits: str = ""
    text: str = ""
    choice: str | None = None
    terminated: bool = False
    reason: str = "silence"
    start_ms: float = 0.0
    end_ms: float = 0.0

    def __bool__(self) -> bool:
        return self.reason in ("keys", "speech")

    def __str__(self) -> str:
        return self.digits or self.text


class TransferResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a transfer: ``answered`` when the two were connected, whoever ended it.

    Attributes:
        outcome: answered, busy, no-answer, failed or canceled.
        duration_s: how long they were connected.
        call_sid: the call of the one it was put through to; empty when none was made.

    True where it was answered.
    """

    outcome: DialOutcome
    duration_s: int = 0
    call_sid: str = ""

    def __bool__(self) -> bool:
        return self.outcome is DialOutcome.ANSWERED


class ConferenceResult(msgspec.Struct, frozen=True, kw_only=True):
    """A conference this call has left again.

    Attributes:
        outcome: ``answered`` when anybody who was invited came, or nobody was; else why the last one did not.
        duration_s: how long this call was away, waiting and the way there and back included.
        invited: the ids of the calls to those who were invited.

    True where it was answered.
    """

    room: str
    outcome: DialOutcome = DialOutcome.ANSWERED
    duration_s: int = 0
    invited: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.outcome is DialOutcome.ANSWERED
