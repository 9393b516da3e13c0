"""``<Dial>``: other telephones ring, the first to answer is joined to the call, and the action hears how it went.

https://www.twilio.com/docs/voice/twiml/dial. While they ring, the caller hears the tone of ringing on the real line,
which is silence here.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from ..masking import mask_number
from .fake_twilio_exchange import Exchange, first_of
from .fake_twilio_records import CallRecord
from .fake_twilio_resources import is_number
from .fake_twilio_twiml import Verb, resolve
from .fake_twilio_webhooks import Form

__all__ = ["DialledNumber", "Dialling", "Legs", "PhoneDialling"]

_MAX_NUMBERS = 10


class DialledNumber(msgspec.Struct, frozen=True, kw_only=True):
    """One telephone, SIP device or client to ring, and what is asked for it."""

    to: str
    caller_id: str
    timeout_s: float
    send_digits: str = ""
    whisper_url: str = ""
    """TwiML that the callee hears before being joined."""
    whisper_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"
    status_callback_events: frozenset[str] = frozenset({"completed"})
    machine_detection: str = ""
    detection_timeout_s: float = 30
    amd_status_callback: str = ""
    amd_status_callback_method: str = "POST"


class Legs(Protocol):
    """What the dialling needs of the call engine."""

    def dial_out(self, parent: CallRecord, number: DialledNumber) -> CallRecord:
        """Let a telephone ring. The new leg's ``joined`` is set once it can be joined, ``left`` when it has gone
        elsewhere since, ``ended`` when it is over."""

    def answer(self, call: CallRecord) -> None:
        """The call is answered, if it was not yet."""

    def end(self, call: CallRecord, status: str = "completed", sip_code: int = 0) -> None:
        """End a leg."""


class Dialling(Protocol):
    """One ``<Dial>``, whatever it dials."""

    async def run(self) -> Form:
        """Returns the parameters of the action when it is over."""

    def stop(self) -> None:
        """Let go of whoever was dialled."""

    def facts(self) -> Form:
        """The parameters of the action when it was cancelled and stopped."""


class PhoneDialling:
    """``<Dial>`` of telephones."""

    def __init__(self, exchange: Exchange, legs: Legs, call: CallRecord, verb: Verb, base_url: str) -> None:
        self._exchange = exchange
        self._legs = legs
        self._call = call
        self._verb = verb
        self._numbers = _read(call, verb, base_url)
        self._ringing: list[CallRecord] = []
        self._joined: CallRecord | None = None

    async def run(self) -> Form:
        exchange, call = self._exchange, self._call
        if problem := self._problem():
            code, text = problem
            exchange.note("error", sid=call.sid, code=code, text=text)
            return self.facts()
        self._ringing = [self._legs.dial_out(call, number) for number in self._numbers]
        leg = await _first_to_answer(self._ringing)
        for other in self._ringing:
            if other is not leg:
                self._legs.end(other, "canceled", 487)
        if leg is not None:
            await self._talk(leg)
        return self.facts()

    async def _talk(self, leg: CallRecord) -> None:
        call, hang_up_on_star = self._call, self._verb.attributes.get("hangupOnStar") == "true"
        self._joined = leg
        self._legs.answer(call)  # it may have waited for that: answerOnBridge

        def on_key(digit: str) -> bool:
            if digit != "*" or not hang_up_on_star:
                return False
            self._legs.end(leg)
            return True

        with self._exchange.switchboard.joined(call, leg, on_key):
            self._exchange.awake(call)
            self._exchange.awake(leg)
            try:
                async with asyncio.timeout(_seconds(self._verb, "timeLimit")):
                    await first_of(leg.ended, leg.left)
            except TimeoutError:
                self._legs.end(leg)

    def stop(self) -> None:
        for leg in self._ringing:
            if leg.left.is_set():
                continue
            if leg.status == "in-progress":
                self._legs.end(leg)
            else:
                self._legs.end(leg, "canceled", 487)

    def facts(self) -> Form:
        if not self._ringing:
            return [("DialCallStatus", "failed"), ("DialBridged", "false")]
        leg = self._joined
        if leg is None:
            last = self._ringing[-1]
            return [("DialCallStatus", last.status), ("DialCallSid", last.sid), ("DialBridged", "false")]
        return [
            ("DialCallStatus", "completed"),
            ("DialCallSid", leg.sid),
            ("DialCallDuration", str(self._duration_s(leg))),
            ("DialBridged", "true"),
        ]

    def _duration_s(self, leg: CallRecord) -> int:
        if leg.end_at is None and leg.start_at is not None:  # it has left
            return round(self._exchange.now() - leg.start_at)
        return leg.duration_s

    def _problem(self) -> tuple[int, str] | None:
        exchange, call, numbers = self._exchange, self._call, self._numbers
        if not 1 <= len(numbers) <= _MAX_NUMBERS:
            return 13223, f"expected 1 to {_MAX_NUMBERS} numbers in <Dial>; {len(numbers)} came"
        for number in numbers:
            shown = mask_number(number.to)
            if not is_number(number.to):
                return 13223, f"expected a telephone number in <Dial>; {shown!r} came"
            if not exchange.may_call(number.to):
                # https://www.twilio.com/docs/api/errors/13227
                return 13227, f"expected a country of the geographic permissions in <Dial>; {shown!r} came"
            ours = {*exchange.numbers, *exchange.caller_ids, call.from_, call.to}
            if number.to.startswith("+") and number.caller_id not in ours:
                shown = mask_number(number.caller_id)
                return 13214, f"expected a callerId of the account or of the call; {shown!r} came"
        return None


def _read(call: CallRecord, verb: Verb, base_url: str) -> list[DialledNumber]:
    plain = DialledNumber(
        to=verb.text,
        caller_id=verb.attributes.get("callerId", call.from_),
        timeout_s=_seconds(verb, "timeout") or 30.0,
    )
    numbers = [plain] if verb.text else []
    for child in verb.children:
        if child.name not in ("Number", "Sip", "Client"):
            raise NotImplementedError(
                f"The fake Twilio cannot execute <Dial><{child.name}> (call {call.sid}); it knows <Number>, <Sip>, "
                f"<Client>, <Conference> and <Queue>."
            )
        get = child.attributes.get
        numbers.append(
            msgspec.structs.replace(
                plain,
                to=_address(child),
                send_digits=get("sendDigits", ""),
                whisper_url=resolve(base_url, get("url", "")),
                whisper_method=get("method", "POST"),
                status_callback=resolve(base_url, get("statusCallback", "")),
                status_callback_method=get("statusCallbackMethod", "POST"),
                status_callback_events=frozenset(get("statusCallbackEvent", "completed").split()),
                machine_detection=get("machineDetection", ""),
                detection_timeout_s=_seconds(child, "machineDetectionTimeout") or 30.0,
                amd_status_callback=resolve(base_url, get("amdStatusCallback", "")),
                amd_status_callback_method=get("amdStatusCallbackMethod", "POST"),
            )
        )
    return numbers


def _address(child: Verb) -> str:
    if child.name != "Client":
        return child.text
    identities = [part.text for part in child.children if part.name == "Identity"]
    return "client:" + (child.text or "".join(identities))


def _seconds(verb: Verb, name: str) -> float | None:
    try:
        return max(1.0, float(verb.attributes.get(name, "")))
    except ValueError:
        return None  # Twilio takes its default


async def _first_to_answer(ringing: list[CallRecord]) -> CallRecord | None:
    """None when nobody does."""
    waiting = {asyncio.ensure_future(first_of(leg.joined, leg.ended)) for leg in ringing}
    try:
        while waiting:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for leg in ringing:
                if leg.joined.is_set() and leg.alive:
                    return leg
        return None
    finally:
        for task in waiting:
            task.cancel()
