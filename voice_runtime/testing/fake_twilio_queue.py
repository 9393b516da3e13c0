"""Hold queues: ``<Enqueue>``, ``<Leave>`` and ``<Dial><Queue>``.

https://www.twilio.com/docs/voice/twiml/enqueue, https://www.twilio.com/docs/voice/twiml/queue
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from ..transports.mock_wire import make_sid
from .fake_twilio_exchange import Exchange, first_of
from .fake_twilio_records import CallRecord
from .fake_twilio_twiml import Verb, resolve
from .fake_twilio_webhooks import Form

__all__ = ["Enqueued", "Entertain", "QueueDialling", "Queues", "WaitingCall"]

Entertain: TypeAlias = Callable[[CallRecord, str, str, Callable[[], Form]], Coroutine[Any, Any, None]]
"""Plays a document (URL, method, parameters of each request) again and again, until it leaves by ``<Leave>``."""

Whisper: TypeAlias = Callable[[CallRecord, str, str, Form], Coroutine[Any, Any, None]]
"""Executes a document once."""


@dataclasses.dataclass(eq=False)
class WaitingCall:
    """A call in a queue, then with whoever took it out."""

    call: CallRecord
    since: float
    taken: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    over: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Nobody has it any more."""
    waited_s: int = 0


@dataclasses.dataclass(eq=False)
class _Queue:
    sid: str
    name: str
    waiting: list[WaitingCall] = dataclasses.field(default_factory=list)
    grown: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class Queues:
    """Belongs to the fake's loop. A queue comes to be when it is first named."""

    def __init__(self, exchange: Exchange, entertain: Entertain, whisper: Whisper) -> None:
        self._exchange = exchange
        self.entertain = entertain
        self.whisper = whisper
        self._queues: dict[str, _Queue] = {}

    def named(self, name: str) -> _Queue:
        return self._queues.setdefault(name, _Queue(make_sid("QU"), name))

    def take(self, queue: _Queue) -> WaitingCall | None:
        """The first in a queue; None when it is empty."""
        if not queue.waiting:
            queue.grown.clear()
            return None
        waiting = queue.waiting.pop(0)
        waiting.waited_s = round(self._exchange.now() - waiting.since)
        waiting.taken.set()
        return waiting


class Enqueued:
    """``<Enqueue>``: a call waits in a queue until it is taken out and done, or the waiting document says
    ``<Leave>``."""

    def __init__(self, exchange: Exchange, queues: Queues, call: CallRecord, verb: Verb, base_url: str) -> None:
        self._exchange = exchange
        self._queues = queues
        self._call = call
        self._verb = verb
        self._base_url = base_url
        self._queue = queues.named(verb.text)
        self._waiting = WaitingCall(call, exchange.now())
        self._result = ""

    async def run(self) -> Form:
        """Returns the parameters of the action."""
        waiting, queue, loop = self._waiting, self._queue, asyncio.get_running_loop()
        queue.waiting.append(waiting)
        queue.grown.set()
        self._exchange.awake(self._call)
        url = resolve(self._base_url, self._verb.attributes.get("waitUrl", ""))
        method = self._verb.attributes.get("waitUrlMethod", "POST")
        entertainment = loop.create_task(self._queues.entertain(self._call, url, method, self._place))
        taken = loop.create_task(waiting.taken.wait())
        try:
            await asyncio.wait({entertainment, taken}, return_when=asyncio.FIRST_COMPLETED)
            if taken.done():
                entertainment.cancel()
                await asyncio.gather(entertainment, return_exceptions=True)
                await waiting.over.wait()
                self._result = "bridged"
            else:
                entertainment.result()
                self._result = "leave"
        finally:
            if waiting in queue.waiting:
                queue.waiting.remove(waiting)
                waiting.waited_s = self._waited_s()
            waiting.over.set()
            entertainment.cancel()
            taken.cancel()
            await asyncio.gather(entertainment, taken, return_exceptions=True)
        return self.facts()

    def _waited_s(self) -> int:
        return round(self._exchange.now() - self._waiting.since)

    def _place(self) -> Form:
        queue = self._queue
        return [
            ("QueueSid", queue.sid),
            ("QueueTime", str(self._waited_s())),
            ("AvgQueueTime", str(self._waited_s())),
            ("QueuePosition", str(queue.waiting.index(self._waiting) + 1)),
            ("CurrentQueueSize", str(len(queue.waiting))),
        ]

    def facts(self) -> Form:
        """The parameters of the action; also after :meth:`run` was cancelled."""
        result = self._result or ("redirected" if self._call.alive else "hangup")
        return [
            ("QueueResult", result),
            ("QueueSid", self._queue.sid),
            ("QueueTime", str(self._waiting.waited_s)),
        ]


class QueueDialling:
    """``<Dial><Queue>``: joined with the first in a queue, or with the next to come while the time-out lasts."""

    def __init__(
        self, exchange: Exchange, queues: Queues, call: CallRecord, queue: Verb, base_url: str, timeout_s: float
    ) -> None:
        self._exchange = exchange
        self._queues = queues
        self._call = call
        self._verb = queue
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._waiting: WaitingCall | None = None
        self._began = exchange.now()

    async def run(self) -> Form:
        queue = self._queues.named(self._verb.text)
        try:
            async with asyncio.timeout(self._timeout_s):
                while (waiting := self._queues.take(queue)) is None:
                    await queue.grown.wait()
        except TimeoutError:
            return self.facts()
        self._waiting = waiting
        if url := resolve(self._base_url, self._verb.attributes.get("url", "")):
            method = self._verb.attributes.get("method", "POST")
            form = [("QueueSid", queue.sid), ("QueueTime", str(waiting.waited_s))]
            form.append(("DequeingCallSid", self._call.sid))
            await self._queues.whisper(waiting.call, url, method, form)
        self._began = self._exchange.now()
        with self._exchange.switchboard.joined(self._call, waiting.call):
            self._exchange.awake(self._call)
            await first_of(waiting.over, waiting.call.ended)
        return self.facts()

    def stop(self) -> None:
        if self._waiting is not None:
            self._waiting.over.set()

    def facts(self) -> Form:
        if self._waiting is None:
            return [("DialCallStatus", "no-answer"), ("DialBridged", "false")]
        self.stop()
        return [
            ("DialCallStatus", "completed"),
            ("DialCallSid", self._waiting.call.sid),
            ("DialCallDuration", str(round(self._exchange.now() - self._began))),
            ("DialBridged", "true"),
        ]
