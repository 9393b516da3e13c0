"""The life of a call: queue, dialling, ringing, answer, TwiML, end, and the callbacks that tell of it.

::

    queued -> initiated -> ringing -> in-progress -> completed
                       \\-> failed    \\-> busy, no-answer, canceled

``initiated`` is seen in callbacks only. https://www.twilio.com/docs/voice/api/call-resource
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine
from typing import Any

from ..transports.mock_wire import make_sid
from .fake_twilio_bridging import send_keys
from .fake_twilio_callbacks import deliver
from .fake_twilio_conference import Conferences
from .fake_twilio_dial import DialledNumber
from .fake_twilio_exchange import Exchange, first_of, rfc2822, sleep_until
from .fake_twilio_interpreter import Interpreter
from .fake_twilio_machine import greet, verdict
from .fake_twilio_recordings import RecordingEngine
from .fake_twilio_records import (
    Callback,
    CallRecord,
    Direction,
    FarEnd,
    OwnedNumber,
    Source,
    StreamRecord,
)
from .fake_twilio_sound import AttentiveMouth, DistantMouth, HeardSamples
from .fake_twilio_twiml import StreamOrder
from .fake_twilio_webhooks import Form

__all__ = ["CallEngine"]

logger = logging.getLogger(__name__)

_EVENTS = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"}
_STOP_GRACE_S = 3.0  # what a stream gets to say goodbye before it is cut


class CallEngine:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange, recordings: RecordingEngine) -> None:
        self._exchange = exchange
        self._recordings = recordings
        self._interpreter = Interpreter(exchange, self, recordings)
        self._next_slot_s = 0.0

    @property
    def conferences(self) -> Conferences:
        return self._interpreter.conferences

    # -- calls come to be ---------------------------------------------------------------------------------------

    def create(self, call: CallRecord, *, early_callback: bool = False) -> asyncio.Event | None:
        """Take an outbound call into the queue.

        Returns an event that is set when the ``initiated`` callback has been delivered, if ``early_callback``.
        """
        loop = asyncio.get_running_loop()
        rate = self._exchange.timings.calls_per_second
        slot_s = max(loop.time(), self._next_slot_s)
        self._next_slot_s = slot_s + 1 / rate
        call.queue_ms = round((slot_s - loop.time()) * 1000)
        self._exchange.calls[call.sid] = call
        self._step(call, "queued")
        delivered = asyncio.Event() if early_callback else None
        call.task = self._exchange.spawn(self._run(call, self._dial(call, slot_s, delivered)))
        return delivered

    def place_inbound(self, *, to: str, from_: str, phone: FarEnd, extra: Form | None = None) -> CallRecord:
        """Somebody calls a number of the account.

        Raises:
            ValueError: the number is not the account's, or has no voice URL.
        """
        number = self._exchange.numbers.get(to)
        if number is None or not number.voice_url:
            owned = ", ".join(sorted(self._exchange.numbers)) or "none"
            raise ValueError(f"expected a number with a voice_url (owned: {owned}); {to!r} came")
        return self._receive(number, from_=from_, phone=phone, extra=extra or [])

    def _receive(self, number: OwnedNumber, *, from_: str, phone: FarEnd, extra: Form) -> CallRecord:
        """A call comes in at a number of the account."""
        call = self.new_call(
            to=number.number,
            from_="anonymous" if self._exchange.faults.anonymous_caller else from_,
            direction="inbound",
            phone=phone,
            first=Source(url=number.voice_url, method=number.voice_method, fallback_url=number.voice_fallback_url),
        )
        call.number_sid = number.sid
        call.callback_url = number.status_callback
        call.extra_voice = [("CallToken", make_sid("")), *extra]
        call.time_limit_s = self._exchange.timings.time_limit_s
        self._exchange.calls[call.sid] = call
        call.status = "ringing"
        self._step(call, "ringing")
        call.task = self._exchange.spawn(self._run(call, None))
        return call

    def new_call(self, *, to: str, from_: str, direction: Direction, phone: FarEnd, first: Source) -> CallRecord:
        """A record that nothing has happened to yet."""
        return CallRecord(
            sid=make_sid("CA"),
            to=to,
            from_=from_,
            direction=direction,
            phone=phone,
            heard=HeardSamples(asyncio.get_running_loop().time()),
            mouth=AttentiveMouth(),
            created_at=self._exchange.now(),
            first=first,
        )

    def dial_out(self, parent: CallRecord, number: DialledNumber) -> CallRecord:
        """``<Dial>``: another telephone rings, on a leg of its own."""
        exchange = self._exchange
        leg = self.new_call(
            to=number.to,
            from_=number.caller_id,
            direction="outbound-dial",
            phone=exchange.phones.get(number.to) or exchange.default_phone(),
            first=Source(url=number.whisper_url, method=number.whisper_method),
        )
        leg.parent_sid = parent.sid
        leg.timeout_s = number.timeout_s
        leg.time_limit_s = exchange.timings.time_limit_s
        leg.callback_url = number.status_callback
        leg.callback_method = number.status_callback_method
        leg.callback_events = number.status_callback_events
        leg.send_digits = number.send_digits
        leg.machine_detection = number.machine_detection
        leg.detection_timeout_s = number.detection_timeout_s
        leg.async_amd = True
        leg.async_amd_callback = number.amd_status_callback
        leg.async_amd_callback_method = number.amd_status_callback_method
        exchange.calls[leg.sid] = leg
        self._step(leg, "queued")
        slot_s = asyncio.get_running_loop().time()  # legs of a call are not limited in number a second
        leg.task = exchange.spawn(self._run_leg(leg, slot_s))
        return leg

    # -- what happens to them from outside ----------------------------------------------------------------------

    def redirect(self, call: CallRecord, source: Source) -> None:
        """REST: give a call that is in progress other TwiML. Ends its stream."""
        call.next_source = source
        call.interrupted.set()

    def end(self, call: CallRecord, status: str = "completed", sip_code: int = 0) -> None:
        """The call is over, from this moment. Its stream is stopped and its callbacks follow."""
        if not call.alive:
            return
        call.sync()
        call.status = status
        call.end_at = self._exchange.now()
        call.sip_code = sip_code or call.sip_code
        call.next_source = None
        self._recordings.finish(call)
        self._step(call, status)
        call.ended.set()
        call.interrupted.set()
        far = call.far
        if far is not None and (far.picked_up or far.direction == "inbound"):
            self.hang_up(far)  # what became of one that still dials, its dialling finds out

    def hang_up(self, call: CallRecord) -> None:
        """The far end puts the receiver down."""
        if call.picked_up:
            self.end(call, "completed", 200)
        else:
            self.end(call, "canceled" if call.direction != "inbound" else "no-answer", 487)

    def start_fork(self, call: CallRecord, order: StreamOrder) -> str:
        """REST: begin a unidirectional stream; returns its sid."""
        return self._interpreter.streams.start_fork(call, order)

    def stop_fork(self, call: CallRecord, name: str) -> StreamRecord | None:
        """REST: stop a unidirectional stream by its name or sid; None when there is none of it."""
        return self._interpreter.streams.stop_fork(call, name)

    def limit(self, call: CallRecord, seconds: float) -> None:
        """REST: the call ends so long after its answer."""
        call.time_limit_s = seconds
        if call.start_at is not None:
            left = call.start_at + seconds - self._exchange.now()
            asyncio.get_running_loop().call_later(max(0.0, left), self._reach_time_limit, call)

    def answer(self, call: CallRecord) -> None:
        """The call is answered: by the far end (outbound), or by the first verb that does (inbound)."""
        if call.status == "in-progress" or not call.alive:
            return
        self._pick_up(call)
        call.status = "in-progress"
        call.start_at = self._exchange.now()
        call.sip_code = 200
        self._step(call, "in-progress")
        if call.recording is not None:
            self._recordings.start(call, call.recording, "OutboundAPI")
        asyncio.get_running_loop().call_later(call.time_limit_s, self._reach_time_limit, call)
        call.answered.set()

    def _pick_up(self, call: CallRecord) -> None:
        """The far end takes the receiver, if not done before."""
        if call.picked_up:
            return
        call.picked_up = True
        greet(call)
        if call.phone.hang_up_after_s is not None:
            asyncio.get_running_loop().call_later(call.phone.hang_up_after_s, self.hang_up, call)
        if call.direction == "outbound-dial":
            self._exchange.awake(call)

    def _reach_time_limit(self, call: CallRecord) -> None:
        if (
            call.alive
            and call.start_at is not None
            and self._exchange.now() - call.start_at >= call.time_limit_s - 0.01
        ):
            text = f"the call has reached its limit of {call.time_limit_s:g} s"
            self._exchange.note("warning", sid=call.sid, code=32015, text=text)
            self.end(call)

    # -- the life of one ----------------------------------------------------------------------------------------

    async def _run(self, call: CallRecord, dialling: Coroutine[Any, Any, None] | None) -> None:
        callbacks = self._exchange.spawn(deliver(self._exchange, call.callbacks, call.sid))
        try:
            source: Source | None = call.first
            if dialling is not None:
                await self._until_interrupted(call, dialling)
                if call.interrupted.is_set():
                    source = call.next_source
            await self._documents(call, source)
        except Exception as error:
            self._exchange.failures.append(error)
            logger.exception("The fake Twilio failed in call %s", call.sid)
        finally:
            self.end(call)
            await self._interpreter.streams.stop_forks(call)
            call.callbacks.put_nowait(None)
            await asyncio.wait({callbacks})
            call.done.set()

    async def _documents(self, call: CallRecord, source: Source | None) -> None:
        """One document after the other, until there are no more or the call is over."""
        while call.alive and source is not None:
            call.next_source = None
            call.interrupted.clear()
            following = await self._until_interrupted(call, self._interpreter.execute(call, source))
            source = call.next_source if call.interrupted.is_set() else following

    async def _run_leg(self, leg: CallRecord, slot_s: float) -> None:
        callbacks = self._exchange.spawn(deliver(self._exchange, leg.callbacks, leg.sid))
        try:
            await self._until_interrupted(leg, self._dial(leg, slot_s, None))
            if leg.alive and leg.first.url:
                await self._documents(leg, leg.first)
            if leg.alive:
                leg.joined.set()
                await leg.interrupted.wait()
            if leg.alive:
                leg.left.set()
                await self._documents(leg, leg.next_source)
        except Exception as error:
            self._exchange.failures.append(error)
            logger.exception("The fake Twilio failed in leg %s", leg.sid)
        finally:
            self.end(leg)
            await self._interpreter.streams.stop_forks(leg)
            leg.callbacks.put_nowait(None)
            await asyncio.wait({callbacks})
            leg.done.set()

    async def _until_interrupted(
        self, call: CallRecord, work: Coroutine[Any, Any, Source | None] | Coroutine[Any, Any, None]
    ) -> Source | None:
        """Do the work until it is done, or the call ends or is redirected. A stream gets the time to say goodbye."""
        task = asyncio.get_running_loop().create_task(work)
        interruption = asyncio.get_running_loop().create_task(call.interrupted.wait())
        try:
            await asyncio.wait({task, interruption}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and (line := call.line) is not None:
                line.stop()
                await asyncio.wait({task}, timeout=_STOP_GRACE_S)
            return task.result() if task.done() else None
        finally:
            interruption.cancel()
            task.cancel()
            await asyncio.gather(task, interruption, return_exceptions=True)

    async def _dial(self, call: CallRecord, slot_s: float, delivered: asyncio.Event | None) -> None:
        timings = self._exchange.timings
        if delivered is None:
            await sleep_until(slot_s + timings.queued_ms / 1000)
        self._step(call, "initiated", delivered)
        await asyncio.sleep(timings.dialing_ms / 1000)
        number = None if call.to in self._exchange.phones else self._exchange.numbers.get(call.to)
        ringing = self._ring_phone(call) if number is None else self._ring_number(call, number)
        if not await ringing:
            return
        self._pick_up(call)
        if call.machine_detection and not call.send_digits:  # SendDigits switches the detection off
            if call.async_amd:
                self._exchange.spawn(self._detect_later(call))
            else:
                await self._detect(call)
        self.answer(call)
        await send_keys(call, call.send_digits)
        await asyncio.sleep(timings.webhook_ms / 1000)

    async def _ring_phone(self, call: CallRecord) -> bool:
        """Whether the telephone is answered; if not, the call has ended."""
        phone = call.phone
        if phone.answer == "failed":
            self.end(call, "failed", 404)
            return False
        call.status = "ringing"
        self._step(call, "ringing")
        if phone.answer in ("busy", "reject"):
            await asyncio.sleep(self._exchange.timings.busy_ms / 1000)
            self.end(call, "busy", 486 if phone.answer == "busy" else 603)
            return False
        if phone.answer == "no-answer" or phone.ring_ms / 1000 > call.timeout_s:
            await asyncio.sleep(call.timeout_s)
            self.end(call, "no-answer", 487)
            return False
        await asyncio.sleep(phone.ring_ms / 1000)
        return True

    async def _ring_number(self, call: CallRecord, number: OwnedNumber) -> bool:
        """The same with a number of the account: a second call comes in there, with TwiML of its own."""
        if not number.voice_url:
            self.end(call, "failed", 404)
            return False
        far = self._receive(number, from_=call.from_, phone=FarEnd(), extra=[])
        for one, other in ((call, far), (far, call)):
            one.far = one.peer = other
            one.phone = FarEnd()
            one.mouth = DistantMouth(other.heard, other.sync, other.sid)
        call.status = "ringing"
        self._step(call, "ringing")
        try:
            async with asyncio.timeout(call.timeout_s):
                await first_of(far.answered, far.ended)
        except TimeoutError:
            self.end(call, "no-answer", 487)
            return False
        if far.answered.is_set():
            return True
        if far.status == "busy" or far.sip_code == 603:
            self.end(call, "busy", far.sip_code)
        else:
            self.end(call, "no-answer", 480)
        return False

    async def _detect(self, call: CallRecord) -> None:
        found = verdict(call)
        await asyncio.sleep(found.after_ms / 1000)
        if call.alive:
            call.answered_by = found.answered_by
            call.detection_ms = round(found.after_ms)

    async def _detect_later(self, call: CallRecord) -> None:
        await self._detect(call)
        if call.alive and call.async_amd_callback:
            form = [
                ("CallSid", call.sid),
                ("AccountSid", self._exchange.account_sid),
                ("AnsweredBy", call.answered_by or "unknown"),
                ("MachineDetectionDuration", str(call.detection_ms)),
            ]
            call.callbacks.put_nowait(
                Callback(url=call.async_amd_callback, method=call.async_amd_callback_method, form=form)
            )

    # -- callbacks ----------------------------------------------------------------------------------------------

    def _step(self, call: CallRecord, status: str, delivered: asyncio.Event | None = None) -> None:
        """Note a new status, and tell the app of it when it has asked for that.

        The sequence number counts the steps, whether or not they are told.
        """
        call.status_history.append((asyncio.get_running_loop().time(), status))
        self._exchange.note("status", sid=call.sid, text=status)
        if status == "queued":
            return
        number = 0 if call.direction == "inbound" else call.sequence
        call.sequence += 1
        event = _EVENTS.get(status, "completed")
        if not call.callback_url or event not in call.callback_events:
            if delivered is not None:
                delivered.set()
            return
        form = [
            *self._exchange.identity(call),
            ("CallbackSource", "call-progress-events"),
            ("CallStatus", status),
            ("SequenceNumber", str(number)),
            ("Timestamp", rfc2822(self._exchange.now())),
        ]
        if call.answered_by is not None:
            form += [("AnsweredBy", call.answered_by), ("MachineDetectionDuration", str(call.detection_ms))]
        if event == "completed":
            form += [
                ("CallDuration", str(call.duration_s)),
                ("Duration", str(math.ceil(call.duration_s / 60))),
                ("SipResponseCode", str(call.sip_code)),
                *self._recordings.facts_for_callback(call),
            ]
        call.callbacks.put_nowait(
            Callback(url=call.callback_url, method=call.callback_method, form=form, delivered=delivered)
        )
