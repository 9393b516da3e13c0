"""What can happen on a call, as frozen records.

Two families. *Recognition events* come from a :class:`~voice_runtime.stt.Recognizer` and say where on the caller's
audio they belong. *Call events* come from the session and tell an observer (a terminal view, a log, a test) what the
call did. All positions and durations are milliseconds.
"""

from __future__ import annotations

import enum

import msgspec

__all__ = [
    "CallEnded",
    "CallEvent",
    "CallStarted",
    "CallerHeard",
    "CallerSpeaking",
    "Cleared",
    "DtmfReceived",
    "EndOfTurn",
    "Final",
    "FlowFailed",
    "Interim",
    "LegEnded",
    "LegStarted",
    "MachineDetected",
    "MarkSettled",
    "NoMatch",
    "Outcome",
    "RecognitionEvent",
    "RecognitionFailed",
    "RecognizerFailed",
    "SayFinished",
    "SayStarted",
    "SmsSent",
    "SmsStatusChanged",
    "SpeechEnded",
    "SpeechStarted",
    "StreamReported",
    "Word",
]


class Outcome(enum.StrEnum):
    """How a piece of audio, or a mark, ended."""

    PLAYED = "played"
    """Twilio's mark came back: the caller heard all of it."""
    INTERRUPTED = "interrupted"
    """A clear cut it."""
    HUNG_UP = "hung_up"
    """The call ended first."""
    FAILED = "failed"
    """The speech provider failed before all of it was made."""
    UNCONFIRMED = "unconfirmed"
    """All of it was sent, but the mark that would prove it heard never came back."""


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """A word and where it stands in its audio (ms)."""

    text: str
    start_ms: float
    end_ms: float


# -- recognition ------------------------------------------------------------------------------------------------


class RecognitionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something a recogniser found. ``at_ms``: position on the caller's audio it was fed, in ms."""

    at_ms: float


class SpeechStarted(RecognitionEvent, frozen=True, kw_only=True):
    """The caller began to speak at ``at_ms``."""


class SpeechEnded(RecognitionEvent, frozen=True, kw_only=True):
    """The caller stopped speaking at ``at_ms``."""


class Interim(RecognitionEvent, frozen=True, kw_only=True):
    """A hypothesis that may still change."""

    text: str


class Final(RecognitionEvent, frozen=True, kw_only=True):
    """A finished transcript. ``at_ms`` is where its speech began, ``end_ms`` where it ended."""

    text: str
    end_ms: float
    confidence: float | None = None
    language: str | None = None
    words: tuple[Word, ...] = ()


class EndOfTurn(RecognitionEvent, frozen=True, kw_only=True):
    """The recogniser believes that the caller is done."""


class NoMatch(RecognitionEvent, frozen=True, kw_only=True):
    """There was speech up to ``at_ms`` but nothing of what was expected."""


class RecognizerFailed(RecognitionEvent, frozen=True, kw_only=True):
    """The recogniser cannot go on by itself.

    ``kind``: auth, quota, rate_limit, concurrency, bad_request, unavailable, timeout, connection, protocol.
    """

    kind: str
    message: str
    retryable: bool


# -- the call ---------------------------------------------------------------------------------------------------


class CallEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something the call did. ``at_ms``: on the caller's audio, whose first frame is 0; so in a recording."""

    call_sid: str
    at_ms: float


class CallStarted(CallEvent, frozen=True, kw_only=True):
    """The first stream of the call is up. Numbers are empty when Twilio did not tell them."""

    caller: str = ""
    called: str = ""
    direction: str = ""


class LegStarted(CallEvent, frozen=True, kw_only=True):
    """A media stream (leg) of the call is up."""

    stream_sid: str


class LegEnded(CallEvent, frozen=True, kw_only=True):
    """A media stream (leg) of the call is gone."""

    stream_sid: str
    reason: str


class CallerSpeaking(CallEvent, frozen=True, kw_only=True):
    """The caller began (``speaking``) or stopped."""

    speaking: bool


class CallerHeard(CallEvent, frozen=True, kw_only=True):
    """The recogniser committed what the caller said.

    ``start_ms`` and ``end_ms`` are where the speech lies; ``at_ms`` is when its transcript came.
    """

    text: str
    start_ms: float
    end_ms: float


class DtmfReceived(CallEvent, frozen=True, kw_only=True):
    """The caller pressed a key."""

    digit: str


class MachineDetected(CallEvent, frozen=True, kw_only=True):
    """Answering machine detection has decided: ``human``, ``machine_start``, ``machine_end_beep``, ``fax``, ..."""

    answered_by: str
    detection_ms: int | None = None


class StreamReported(CallEvent, frozen=True, kw_only=True):
    """Twilio says of a media stream: ``stream-started``, ``stream-stopped`` or, with ``error``, ``stream-error``."""

    stream_sid: str
    report: str
    error: str = ""


class SayStarted(CallEvent, frozen=True, kw_only=True):
    """The agent begins to say ``text``; for a recording, ``text`` is its name."""

    text: str


class SayFinished(CallEvent, frozen=True, kw_only=True):
    """What became of it: ``heard_text`` and ``heard_ms`` are what reached the caller; it began at ``start_ms``."""

    text: str
    start_ms: float
    heard_text: str
    heard_ms: float
    outcome: Outcome


class MarkSettled(CallEvent, frozen=True, kw_only=True):
    """A mark came back, or never will. ``played_ms``: how much audio of the leg stood before it."""

    label: str
    outcome: Outcome
    played_ms: float


class Cleared(CallEvent, frozen=True, kw_only=True):
    """Everything queued was dropped. ``unheard_ms``: how much audio that was."""

    unheard_ms: float


class SmsSent(CallEvent, frozen=True, kw_only=True):
    """A message was handed to the carrier."""

    to: str
    body: str
    message_sid: str


class SmsStatusChanged(CallEvent, frozen=True, kw_only=True):
    """The carrier told how far a message is: sent, delivered, undelivered or failed.

    ``error_code``: Twilio's, where it did not arrive (``https://www.twilio.com/docs/errors/<code>``).
    """

    message_sid: str
    to: str
    status: str
    error_code: int | None = None


class RecognitionFailed(CallEvent, frozen=True, kw_only=True):
    """The call has no ear any longer, and why. It goes on deaf."""

    error: str


class FlowFailed(CallEvent, frozen=True, kw_only=True):
    """``run()`` raised. The traceback is in the log, under the call's id."""

    error: str


class CallEnded(CallEvent, frozen=True, kw_only=True):
    """The call is over. ``reason``: caller_hung_up, hung_up, cut, failed, media_stopped, ..."""

    reason: str
    duration_ms: float
