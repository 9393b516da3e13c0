"""What the verbs of a call return."""

from __future__ import annotations

import msgspec

from .events import Outcome

__all__ = ["ListenResult", "PlayResult", "SayResult"]


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
        reason: ``speech``; ``no_match`` (there was speech, but nothing that was expected); ``silence``.
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
