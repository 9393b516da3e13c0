"""Who answers a call: what is said at once, the beep, and what answering machine detection makes of it.

https://www.twilio.com/docs/voice/answering-machine-detection
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from ..transports.mock_audio import SAMPLES_PER_SECOND
from .fake_twilio_records import CallRecord
from .fake_twilio_sound import beep

__all__ = ["Verdict", "greet", "verdict"]


class Verdict(NamedTuple):
    """What is found out, and how long after the answer."""

    answered_by: str
    after_ms: float


def greet(call: CallRecord) -> None:
    """The far end has picked up: it says its greeting, and a machine beeps and begins to record."""
    phone = call.phone
    if phone.greeting:
        call.mouth.say(phone.greeting)
    if phone.answered_by != "machine":
        return
    if phone.greeting:
        _record(call)
    else:
        quiet_ms = max(0.0, phone.detection_ms - phone.beep_ms)
        asyncio.get_running_loop().call_later(quiet_ms / 1000, _record, call)


def _record(call: CallRecord) -> None:
    recording_s = call.mouth.say(beep(call.phone.beep_ms))
    call.message_from = round(recording_s * SAMPLES_PER_SECOND)


def verdict(call: CallRecord) -> Verdict:
    """What the detection that the call asks for will find out.

    The end of a greeting without a beep is known only after the silence of ``MachineDetectionSpeechEndThreshold``.
    """
    phone = call.phone
    found, after_ms = phone.answered_by, phone.detection_ms
    if found == "machine":
        result = "machine_start"
        if call.machine_detection == "DetectMessageEnd":
            result = "machine_end_beep" if phone.beep_ms else "machine_end_silence"
            if phone.greeting:
                after_ms = len(phone.greeting) * 1000 / SAMPLES_PER_SECOND
                after_ms += phone.beep_ms or call.detection_silence_ms
            else:
                after_ms = max(after_ms, phone.beep_ms)
    else:
        result = found
    if after_ms > call.detection_timeout_s * 1000:
        return Verdict("unknown", call.detection_timeout_s * 1000)
    return Verdict(result, after_ms)
