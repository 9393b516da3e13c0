"""What is known of a call besides its audio: who calls whom, how it was answered, what became of it."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["CallFacts", "CallOutcome", "DialOutcome", "Failure"]


class CallFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a call before its stream is up. A flow factory is called with it.

    Attributes:
        call_sid: Twilio's id; empty for a call that is being dialled.
        caller, called: as Twilio writes them: E.164, ``sip:...``, ``client:...`` or ``anonymous``.
        direction: ``inbound`` or ``outbound-api``.
        forwarded_from: the number that forwarded the call here, where the carrier tells.
        caller_name: from the carrier's directory, where that is paid for.
        verstat: STIR/SHAKEN, for example ``TN-Validation-Passed-A``; empty when nothing is known. Only a passed ``A``
            vouches for the number, and no number proves who is speaking.
        fields: everything the webhook said, by Twilio's names, ``SipHeader_...`` included.
    """

    call_sid: str = ""
    caller: str = ""
    called: str = ""
    direction: str = ""
    forwarded_from: str = ""
    caller_name: str = ""
    verstat: str = ""
    fields: dict[str, str] = {}

    @property
    def attestation(self) -> str:
        """``A``, ``B`` or ``C`` when the caller's number passed validation, else empty."""
        verdict, _, level = self.verstat.rpartition("-")
        return level if verdict == "TN-Validation-Passed" and level in ("A", "B", "C") else ""


class CallOutcome(enum.StrEnum):
    """How a call was answered, or why it was not."""

    ANSWERED = "answered"
    """By a person, as far as anybody knows: without machine detection everything is, and ``unknown`` is."""
    MACHINE = "machine"
    FAX = "fax"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    REJECTED = "rejected"
    FAILED = "failed"
    """It could not be put through; the call's ``failure`` says why, as far as Twilio does."""
    CANCELED = "canceled"
    """Ended while it rang."""

    @property
    def answered(self) -> bool:
        """Whether somebody or something picked up."""
        return self in (CallOutcome.ANSWERED, CallOutcome.MACHINE, CallOutcome.FAX)


class DialOutcome(enum.StrEnum):
    """What became of a leg that was dialled out of a call: a transfer, an invitation."""

    ANSWERED = "answered"
    BUSY = "busy"
    NO_ANSWER = "no-answer"
    FAILED = "failed"
    CANCELED = "canceled"


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call failed.

    Attributes:
        code: Twilio's error code (``https://www.twilio.com/docs/errors/<code>``), or None.
        sip_code: the carrier's SIP response code (RFC 3261 section 21), or None.
        message: one sentence.
    """

    code: int | None = None
    sip_code: int | None = None
    message: str = ""

    def __str__(self) -> str:
        return self.message
