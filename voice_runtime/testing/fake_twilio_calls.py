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

from ..transports.mock_audio import HeardAudio
from ..transports.mock_wire import make_sid
from .fake_twilio_dial import DialledNumber
from .fake_twilio_exchange import Exchange, rfc2822
from .fake_twilio_interpreter import Interpreter, digits_s
from .fake_twilio_recordings import RecordingEngine
from .fake_twilio_records import AttentiveMouth, CallRecord, Direction, FarEnd, Source, StreamRecord
from .fake_twilio_twiml import StreamOrder
from .fake_twilio_webhooks import Form, WebhookFailure

__all__ = ["CallEngine"]

logger = logging.getLogger(__name__)

_EVENTS = {"initiated": "initiated", "ringing": "ringing", "in-progress": "answered"}
_MACHINES = {"Enable": "machine_start", "DetectMessageEnd": "machine_end_beep"}
_STOP_GRACE_S = 3.0  # what a stream gets to say goodbye before it is cut


class CallEngine:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange, recordings: RecordingEngine) -> None:
        self._exchange = exchange
        self._recordings = recordings
        self._interpreter = Interpreter(exchange, self, recordings, self.answer)
        self._next_slot_s = 0.0

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
        call = self.new_call(
            to=to,
            from_="anonymous" if self._exchange.faults.anonymous_caller else from_,
            direction="inbound",
            phone=phone,
            first=Source(url=number.voice_url, method=number.voice_method, fallback_url=number.voice_fallback_url),
        )
        call.number_sid = number.sid
        call.callback_url = number.status_callback
        call.extra_voice = [("CallToken", make_sid("")), *(extra or [])]
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
            heard=HeardAudio(asyncio.get_running_loop().time()),
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
        call.status = status
        call.end_at = self._exchange.now()
        call.sip_code = sip_code or call.sip_code
        call.next_source = None
        self._recordings.finish(call)
        self._step(call, status)
        call.ended.set()
        call.interrupted.set()

    def hang_up(self, call: CallRecord) -> None:
        """The far end puts the receiver down."""
        if call.status == "in-progress":
            self.end(call, "completed", 200)
        else:
            self.end(call, "canceled" if call.direction != "inbound" else "no-answer", 487)

    def start_fork(self, call: CallRecord, order: StreamOrder) -> str:
        """REST: begin a unidirectional stream; returns its sid."""
        return self._interpreter.start_fork(call, order)

    def stop_fork(self, call: CallRecord, name: str) -> StreamRecord | None:
        """REST: stop a unidirectional stream by its name or sid; None when there is none of it."""
        return self._interpreter.stop_fork(call, name)

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
        call.status = "in-progress"
        call.start_at = self._exchange.now()
        call.sip_code = 200
        self._step(call, "in-progress")
        if call.recording is not None:
            self._recordings.start(call, call.recording, "OutboundAPI")
        loop = asyncio.get_running_loop()
        loop.call_later(call.time_limit_s, self._reach_time_limit, call)
        if call.phone.hang_up_after_s is not None:
            loop.call_later(call.phone.hang_up_after_s, self.hang_up, call)

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
        callbacks = self._exchange.spawn(self._deliver(call))
        try:
            source: Source | None = call.first
            if dialling is not None:
                await self._until_interrupted(call, dialling)
                if call.interrupted.is_set():
                    source = call.next_source
            while call.alive and source is not None:
                call.next_source = None
                call.interrupted.clear()
                following = await self._until_interrupted(call, self._interpreter.execute(call, source))
                source = call.next_source if call.interrupted.is_set() else following
        except Exception as error:
            self._exchange.failures.append(error)
            logger.exception("The fake Twilio failed in call %s", call.sid)
        finally:
            self.end(call)
            await self._interpreter.stop_forks(call)
            call.callbacks.put_nowait(None)
            await asyncio.wait({callbacks})
            call.done.set()

    async def _run_leg(self, leg: CallRecord, slot_s: float) -> None:
        callbacks = self._exchange.spawn(self._deliver(leg))
        try:
            await self._until_interrupted(leg, self._dial(leg, slot_s, None))
            if leg.alive and leg.first.url:
                await self._until_interrupted(leg, self._interpreter.execute(leg, leg.first))
            if leg.alive:
                leg.joined.set()
                await leg.ended.wait()
        except Exception as error:
            self._exchange.failures.append(error)
            logger.exception("The fake Twilio failed in leg %s", leg.sid)
        finally:
            self.end(leg)
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
        phone = call.phone
        if delivered is None:
            await _sleep_until(slot_s + timings.queued_ms / 1000)
        self._step(call, "initiated", delivered)
        await asyncio.sleep(timings.dialing_ms / 1000)
        if phone.answer == "failed":
            self.end(call, "failed", 404)
            return
        call.status = "ringing"
        self._step(call, "ringing")
        if phone.answer in ("busy", "reject"):
            await asyncio.sleep(timings.busy_ms / 1000)
            self.end(call, "busy", 486 if phone.answer == "busy" else 603)
            return
        if phone.answer == "no-answer" or phone.ring_ms / 1000 > call.timeout_s:
            await asyncio.sleep(call.timeout_s)
            self.end(call, "no-answer", 487)
            return
        await asyncio.sleep(phone.ring_ms / 1000)
        if call.machine_detection and not call.send_digits:  # SendDigits switches the detection off
            if call.async_amd:
                self._exchange.spawn(self._detect_later(call))
            else:
                await asyncio.sleep(phone.detection_ms / 1000)
                self._detect(call)
        self.answer(call)
        if call.send_digits:
            call.keys_heard += call.send_digits.replace("w", "").replace("W", "")
            await asyncio.sleep(digits_s(call.send_digits))
        await asyncio.sleep(timings.webhook_ms / 1000)

    def _detect(self, call: CallRecord) -> None:
        found = call.phone.answered_by
        call.answered_by = _MACHINES.get(call.machine_detection, "machine_start") if found == "machine" else found
        call.detection_ms = round(call.phone.detection_ms)

    async def _detect_later(self, call: CallRecord) -> None:
        await asyncio.sleep(call.phone.detection_ms / 1000)
        if not call.alive:
            return
        self._detect(call)
        if call.async_amd_callback:
            form = [
                ("CallSid", call.sid),
                ("AccountSid", self._exchange.account_sid),
                ("AnsweredBy", call.answered_by or "unknown"),
                ("MachineDetectionDuration", str(call.detection_ms)),
            ]
            await self._exchange.webhooks.callback(
                call.async_amd_callback, form, method=call.async_amd_callback_method, sid=call.sid
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
        call.callbacks.put_nowait((form, delivered))

    async def _deliver(self, call: CallRecord) -> None:
        held: tuple[Form, asyncio.Event | None] | None = None
        while (item := await call.callbacks.get()) is not None:
            if self._exchange.faults.reorder_callbacks and held is None:
                held = item
                continue
            await self._send_callback(call, *item)
            if held is not None:
                await self._send_callback(call, *held)
                held = None
        if held is not None:
            await self._send_callback(call, *held)

    async def _send_callback(self, call: CallRecord, form: Form, delivered: asyncio.Event | None) -> None:
        faults = self._exchange.faults
        if not faults.drop_callbacks:
            if delivered is None:
                await asyncio.sleep((self._exchange.timings.callback_ms + faults.callback_delay_ms) / 1000)
            for _ in range(2 if faults.duplicate_callbacks else 1):
                result = await self._exchange.webhooks.callback(
                    call.callback_url, form, method=call.callback_method, sid=call.sid
                )
                if isinstance(result, WebhookFailure):
                    self._exchange.note("warning", sid=call.sid, code=result.code, text=result.message)
        if delivered is not None:
            delivered.set()


async def _sleep_until(when: float) -> None:
    await asyncio.sleep(max(0.0, when - asyncio.get_running_loop().time()))
