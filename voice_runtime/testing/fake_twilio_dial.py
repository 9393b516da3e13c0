"""``<Dial>``: other telephones ring, the first to answer is joined to the call, and the action hears how it went.

https://www.twilio.com/docs/voice/twiml/dial. What the two say to each other is not modelled; how long they are joined
and who ends it, is.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import msgspec

from .fake_twilio_exchange import Exchange
from .fake_twilio_records import CallRecord
from .fake_twilio_resources import is_number
from .fake_twilio_twiml import Verb, resolve
from .fake_twilio_webhooks import Form

__all__ = ["DialledNumber", "Legs", "dial"]


class DialledNumber(msgspec.Struct, frozen=True, kw_only=True):
    """One telephone to ring, and what is asked for it."""

    to: str
    caller_id: str
    timeout_s: float
    whisper_url: str = ""
    """TwiML that the callee hears before being joined."""
    whisper_method: str = "POST"
    status_callback: str = ""
    status_callback_method: str = "POST"
    status_callback_events: frozenset[str] = frozenset({"completed"})


class Legs(Protocol):
    """What the dialling needs of the call engine."""

    def dial_out(self, parent: CallRecord, number: DialledNumber) -> CallRecord:
        """Let a telephone ring. The new leg's ``joined`` is set once it can be joined, ``ended`` when it is over."""

    def end(self, call: CallRecord, status: str = "completed", sip_code: int = 0) -> None:
        """End a leg."""


def _read(call: CallRecord, verb: Verb, base_url: str) -> list[DialledNumber]:
    caller_id = verb.attributes.get("callerId", call.from_)
    timeout_s = _seconds(verb, "timeout") or 30.0
    numbers = [DialledNumber(to=verb.text, caller_id=caller_id, timeout_s=timeout_s)] if verb.text else []
    for child in verb.children:
        if child.name != "Number":
            raise NotImplementedError(
                f"The fake Twilio cannot execute <Dial><{child.name}> (call {call.sid}); it knows <Number>."
            )
        get = child.attributes.get
        numbers.append(
            DialledNumber(
                to=child.text,
                caller_id=caller_id,
                timeout_s=timeout_s,
                whisper_url=resolve(base_url, get("url", "")),
                whisper_method=get("method", "POST"),
                status_callback=resolve(base_url, get("statusCallback", "")),
                status_callback_method=get("statusCallbackMethod", "POST"),
                status_callback_events=frozenset(get("statusCallbackEvent", "completed").split()),
            )
        )
    return numbers


def _seconds(verb: Verb, name: str) -> float | None:
    try:
        return max(1.0, float(verb.attributes.get(name, "")))
    except ValueError:
        return None  # Twilio takes its default


async def dial(exchange: Exchange, legs: Legs, call: CallRecord, verb: Verb, base_url: str) -> Form:
    """Ring, join, wait for the end; returns the parameters of the action.

    Cancelling ends the legs.
    """
    numbers = _read(call, verb, base_url)
    if problem := _problem(exchange, call, numbers):
        code, text = problem
        exchange.note("error", sid=call.sid, code=code, text=text)
        return [("DialCallStatus", "failed"), ("DialBridged", "false")]
    ringing = [legs.dial_out(call, number) for number in numbers]
    try:
        joined = await _first_to_answer(ringing)
        for leg in ringing:
            if leg is not joined:
                legs.end(leg, "canceled", 487)
        if joined is None:
            return [
                ("DialCallStatus", ringing[-1].status),
                ("DialCallSid", ringing[-1].sid),
                ("DialBridged", "false"),
            ]
        try:
            async with asyncio.timeout(_seconds(verb, "timeLimit")):
                await joined.ended.wait()
        except TimeoutError:
            legs.end(joined)
        return [
            ("DialCallStatus", "completed"),
            ("DialCallSid", joined.sid),
            ("DialCallDuration", str(joined.duration_s)),
            ("DialBridged", "true"),
        ]
    finally:
        for leg in ringing:
            legs.end(leg)


def _problem(exchange: Exchange, call: CallRecord, numbers: list[DialledNumber]) -> tuple[int, str] | None:
    if not numbers or len(numbers) > 10:
        return 13223, f"expected 1 to 10 numbers in <Dial>; {len(numbers)} came"
    for number in numbers:
        if not is_number(number.to):
            return 13223, f"expected a telephone number in <Dial>; {number.to!r} came"
        ours = {*exchange.numbers, *exchange.caller_ids, call.from_, call.to}
        if number.caller_id not in ours:
            return 13214, f"expected a callerId of the account or of the call; {number.caller_id!r} came"
    return None


async def _first_to_answer(ringing: list[CallRecord]) -> CallRecord | None:
    """None when nobody does."""

    async def settled(leg: CallRecord) -> None:
        joined = asyncio.ensure_future(leg.joined.wait())
        ended = asyncio.ensure_future(leg.ended.wait())
        try:
            await asyncio.wait({joined, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            joined.cancel()
            ended.cancel()

    waiting = {asyncio.ensure_future(settled(leg)) for leg in ringing}
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
