"""What Twilio's requests about a call say, as typed values. Pure.

Every ``from_form`` takes the fields by Twilio's names, one value each, and makes the best of what is missing or odd:
a field that is absent is empty, as is an id that can be none; a number that is none is None; and what nobody knows is
kept in no one's way.
Reference: https://www.twilio.com/docs/voice/twiml#request-parameters and /docs/voice/api/call-resource.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from ..facts import CallFacts, CallOutcome, DialOutcome, Failure
from ..results import TransferResult

__all__ = [
    "ENDED",
    "CallProgress",
    "Fields",
    "MachineVerdict",
    "StatusReport",
    "StreamReport",
    "call_facts",
    "dial_result",
    "whole_number",
]

Fields: TypeAlias = Mapping[str, str]

ENDED = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})
"""The CallStatus values after which nothing follows."""

_ORDER = {"queued": 0, "initiated": 1, "ringing": 2, "in-progress": 3, **dict.fromkeys(ENDED, 4)}

_SID = re.compile(r"(?:CA|MZ)[A-Za-z0-9]{1,62}")

_REJECTED = frozenset({603, 607, 608})
"""SIP responses of who does not want the call: Decline (RFC 3261), Unwanted (RFC 8197), Rejected (RFC 8688)."""


def whole_number(fields: Fields, name: str) -> int | None:
    """A field of digits; None when it is missing or is something else."""
    text = fields.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def _sid(fields: Fields, name: str) -> str:
    """An id goes into paths and logs: what cannot be one is none."""
    text = fields.get(name, "")
    return text if _SID.fullmatch(text) else ""


def call_facts(fields: Fields) -> CallFacts:
    """Who calls whom, from the voice webhook."""
    return CallFacts(
        call_sid=_sid(fields, "CallSid"),
        caller=fields.get("From", ""),
        called=fields.get("To", ""),
        direction=fields.get("Direction", "") or "inbound",
        forwarded_from=fields.get("ForwardedFrom", ""),
        caller_name=fields.get("CallerName", ""),
        verstat=fields.get("StirVerstat", ""),
        fields=dict(fields),
    )


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """A status callback of a call.

    ``sequence`` counts all steps of the call, told or not; None when it did not come. ``duration_s`` is what Twilio
    calls CallDuration: its field Duration is minutes, rounded up.
    """

    call_sid: str = ""
    status: str = ""
    sequence: int | None = None
    sip_code: int | None = None
    error_code: int | None = None
    error_message: str = ""
    answered_by: str = ""
    duration_s: int | None = None

    @classmethod
    def from_form(cls, fields: Fields) -> StatusReport:
        return cls(
            call_sid=_sid(fields, "CallSid"),
            status=fields.get("CallStatus", ""),
            sequence=whole_number(fields, "SequenceNumber"),
            sip_code=whole_number(fields, "SipResponseCode"),
            error_code=whole_number(fields, "ErrorCode"),
            error_message=fields.get("ErrorMessage", ""),
            answered_by=fields.get("AnsweredBy", ""),
            duration_s=whole_number(fields, "CallDuration"),
        )


class MachineVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """What answering machine detection found. https://www.twilio.com/docs/voice/answering-machine-detection

    Attributes:
        answered_by: ``human``, ``machine_start``, ``machine_end_beep``, ``machine_end_silence``,
            ``machine_end_other``, ``fax`` or ``unknown``.
        detection_ms: how long it took.
    """

    call_sid: str = ""
    answered_by: str = ""
    detection_ms: int | None = None

    @classmethod
    def from_form(cls, fields: Fields) -> MachineVerdict:
        return cls(
            call_sid=_sid(fields, "CallSid"),
            answered_by=fields.get("AnsweredBy", ""),
            detection_ms=whole_number(fields, "MachineDetectionDuration"),
        )


def dial_result(fields: Fields) -> TransferResult:
    """What the action of ``<Dial>`` is told. https://www.twilio.com/docs/voice/twiml/dial#attributes-action"""
    status = fields.get("DialCallStatus", "")
    if status == "completed" and fields.get("DialBridged") == "false":
        status = "canceled"  # interrupted before the two were joined
    outcomes = {"completed": DialOutcome.ANSWERED, **{outcome.value: outcome for outcome in DialOutcome}}
    return TransferResult(
        outcome=outcomes.get(status, DialOutcome.FAILED),
        call_sid=_sid(fields, "DialCallSid"),
        duration_s=whole_number(fields, "DialCallDuration") or 0,
    )


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """A status callback of a media stream: ``stream-started``, ``stream-stopped`` or ``stream-error``."""

    call_sid: str = ""
    stream_sid: str = ""
    event: str = ""
    error: str = ""

    @classmethod
    def from_form(cls, fields: Fields) -> StreamReport:
        return cls(
            call_sid=_sid(fields, "CallSid"),
            stream_sid=_sid(fields, "StreamSid"),
            event=fields.get("StreamEvent", ""),
            error=fields.get("StreamError", ""),
        )


class CallProgress:
    """How far a dialled call is, from callbacks that come late, twice or in the wrong order.

    Twilio orders them by SequenceNumber and delivers them as the network pleases. What is over stays over.
    """

    __slots__ = ("_sequence", "answered_by", "failure", "sip_code", "status")

    def __init__(self) -> None:
        self._sequence = -1
        self.status = ""
        """The newest CallStatus; empty before the first."""
        self.sip_code: int | None = None
        self.answered_by = ""
        self.failure: Failure | None = None

    def report(self, report: StatusReport) -> bool:
        """Take note of a callback; False when it tells nothing new."""
        if report.answered_by:
            self.answered_by = report.answered_by
        if report.status not in _ORDER or self.over:
            return False
        if report.status not in ENDED:  # of these there is one kind, and it is the last, whatever its number says
            if report.sequence is not None and report.sequence <= self._sequence:
                return False
            if _ORDER[report.status] <= _ORDER.get(self.status, -1):
                return False
        if report.sequence is not None:
            self._sequence = max(self._sequence, report.sequence)
        self.status = report.status
        self.sip_code = report.sip_code
        if report.status == "failed":
            self.failure = _failure(report)
        return True

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self.status in ENDED

    @property
    def outcome(self) -> CallOutcome | None:
        """Why it was not answered; None when it was, or when that is still open."""
        if self.status in ("busy", "no-answer") and self.sip_code in _REJECTED:
            return CallOutcome.REJECTED
        return CallOutcome(self.status) if self.status in ENDED - {"completed"} else None


def _failure(report: StatusReport) -> Failure:
    message = report.error_message
    if not message:
        parts = [f"Twilio error {report.error_code}"] if report.error_code else []
        parts += [f"the carrier answered SIP {report.sip_code}"] if report.sip_code else []
        message = "The call could not be put through" + (f": {', '.join(parts)}." if parts else ".")
    return Failure(code=report.error_code, sip_code=report.sip_code, message=message)
