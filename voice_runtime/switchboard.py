"""Every call of a server, from the moment it is expected: whose flow it gets, where it is, when it is over.

Runs on the event loop's thread unless a method says otherwise.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import msgspec

from .clock import Clock
from .exceptions import VoiceRuntimeError
from .facts import CallFacts, CallOutcome, Failure
from .flow import Call
from .live_call import LiveCall
from .session import VoiceSession
from .transports.twilio_protocol import StartBody
from .transports.twilio_token import TokenBook
from .transports.twilio_webhooks import CallProgress, StatusReport
from .workers import run_in_thread

__all__ = ["Flow", "Refusal", "Switchboard", "busy", "reject", "session_for"]

log = logging.getLogger(__name__)

_TOKEN_S = 60.0
"""Twilio connects within a second of having the TwiML."""
_LATE_S = 120.0  # what Twilio still asks or tells about a call that is over
_DISOWNED_S = 3600.0  # Twilio's queue of calls may be long
_STATUS_PATIENCE_S = 60.0
_RECONNECT_S = 8.0  # Twilio asks within a moment of a stream's loss, and connects the next in less than a second
_LOSSES = 3
_LOSSES_WITHIN_S = 60.0


class Refusal(msgspec.Struct, frozen=True):
    """A call that is not taken; see :func:`reject` and :func:`busy`."""

    reason: str


def reject() -> Refusal:
    """Not in service: the call is refused, neither answered nor billed. A function that chooses flows returns it."""
    return Refusal("rejected")


def busy() -> Refusal:
    """The engaged tone, likewise."""
    return Refusal("busy")


Chosen: TypeAlias = VoiceSession | type[VoiceSession] | Refusal
Flow: TypeAlias = type[VoiceSession] | Callable[[CallFacts], Chosen] | Mapping[str, "Flow"]
"""A session's class; a function that makes or chooses one; or one of these for each number, ``*`` for the others."""


def session_for(flow: Flow, facts: CallFacts) -> VoiceSession | Refusal:
    """The session a call gets. Runs user code: in a thread of its own.

    Raises:
        TypeError: the function returned something else.
    """
    if isinstance(flow, Mapping):
        ours = facts.caller if facts.direction.startswith("outbound") else facts.called
        chosen = flow.get(ours) or flow.get("*")
        if chosen is None:
            log.warning("Call %s: no flow for the number it came to, and none for '*'; rejected", facts.call_sid)
            return reject()
        return session_for(chosen, facts)
    made: object = flow if isinstance(flow, type) else flow(facts)
    if isinstance(made, type) and issubclass(made, VoiceSession):
        made = made()
    if not isinstance(made, (VoiceSession, Refusal)):
        raise TypeError(f"a flow makes a VoiceSession, or returns reject() or busy(), not {type(made).__name__!r}")
    return made


class Switchboard:
    """The calls of one server.

    Args:
        equip: gives a new call, in a region (None: the main one), what the server has for it: providers, carrier,
            observers.
        apology: what a caller hears when ``run()`` fails; None: nothing.
    """

    def __init__(
        self, *, clock: Clock, equip: Callable[[Call, str | None], None], apology: str | None, tokens: TokenBook[Call]
    ) -> None:
        self._clock = clock
        self._equip = equip
        self._apology = apology
        self.tokens = tokens
        self.up: dict[str, Call] = {}
        """The calls whose stream has begun, by their SID."""
        self.finished: deque[Call] = deque(maxlen=100)
        self._open: dict[str, Call] = {}
        self._disowned: dict[str, Call] = {}
        # Weak: a call that is over is kept by those who want to know of it, not by us.
        self._late: OrderedDict[str, tuple[float, weakref.ref[Call]]] = OrderedDict()
        self._progress: weakref.WeakKeyDictionary[Call, CallProgress] = weakref.WeakKeyDictionary()
        self._losses: weakref.WeakKeyDictionary[Call, list[float]] = weakref.WeakKeyDictionary()
        self._issued: weakref.WeakKeyDictionary[Call, list[str]] = weakref.WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = threading.Lock()
        self._reserved = 0

    def __len__(self) -> int:
        """How many calls are expected or up."""
        return len(self._open)

    @property
    def open(self) -> list[Call]:
        """The calls that are expected, ringing or up; any thread."""
        return list(self._open.values())

    def find(self, key: str) -> Call | None:
        """The call a webhook is about: one that is not over, or not for long; any thread."""
        call = self._open.get(key) or self._disowned.get(key)
        if call is None and (late := self._late.get(key)) is not None:
            call = late[1]()
        return call

    def expected(self, call_sid: str) -> Call | None:
        """The call of this SID that waits for its first stream: Twilio repeats a request now and then."""
        for call in list(self._open.values()):
            if call_sid and call.call_sid == call_sid and call.live.started_at is None and not call.live.ended:
                return call
        return None

    def was_here(self, key: str) -> bool:
        """Whether a webhook is about a call that is over, but not for long; any thread."""
        return key in self._late

    # -- calls come to be -----------------------------------------------------------------------------------------

    def reserve(self, limit: int) -> bool:
        """Take a place for a call whose flow is still to be made; False when ``limit`` are taken. Any thread."""
        with self._places:
            if len(self._open) + self._reserved >= limit:
                return False
            self._reserved += 1
            return True

    def expect(
        self,
        flow: Flow,
        facts: CallFacts,
        loop: asyncio.AbstractEventLoop,
        *,
        region: str | None = None,
        reserved: bool = False,
    ) -> Call | Refusal:
        """Make the call that is to come. Any thread but the loop's, for constructors are user code.

        Args:
            reserved: it takes the place that was reserved for it, or gives it back.

        Raises:
            TypeError: the flow made no session.
        """
        made: Call | Refusal | None = None
        try:
            made = self._make(flow, facts, loop, region)
        finally:
            with self._places:
                self._reserved -= reserved
                if isinstance(made, Call):
                    self._open[made.key] = made
        return made

    def _make(
        self, flow: Flow, facts: CallFacts, loop: asyncio.AbstractEventLoop, region: str | None
    ) -> Call | Refusal:
        session = session_for(flow, facts)
        if isinstance(session, Refusal):
            return session
        if session.live.started_at is not None or session.live.ended or session.live.control is not None:
            raise VoiceRuntimeError("The flow gave a session that has a call already: every call needs its own")
        session.use_clock(self._clock)
        call = Call(session)
        live = session.live
        live.facts = facts
        live.reconnect_s = _RECONNECT_S
        live.bridge.attach(loop)
        self._equip(call, region)
        live.on_begun.append(functools.partial(self._begun, call))
        live.on_over.append(functools.partial(self._over, call))
        live.on_lost = functools.partial(self._lost, call)
        return call

    def forget(self, call: Call) -> None:
        """It was never placed; any thread."""
        self._open.pop(call.key, None)
        self._revoke(call)

    def stream_token(self, call: Call, seconds: float = _TOKEN_S) -> str:
        """A token for one stream of the call; any thread."""
        token = self.tokens.issue(call, self._clock.monotonic(), seconds)
        self._issued.setdefault(call, []).append(token)
        return token

    def _revoke(self, call: Call) -> None:
        for token in self._issued.pop(call, ()):
            self.tokens.revoke(token)

    def watch(self, call: Call, ring_s: float = 0.0) -> None:
        """Give the call up, should neither a stream nor any news of it come; ``ring_s`` is how long it may ring. One
        that Twilio still has in its queue is waited for."""
        loop = asyncio.get_running_loop()
        loop.call_later(ring_s + _STATUS_PATIENCE_S, self._look_after, call, ring_s, call.status)

    def _look_after(self, call: Call, ring_s: float, status_before: str) -> None:
        live = call.live
        if live.started_at is not None or live.ended:
            return
        if call.status != status_before:
            self.watch(call, ring_s)
        else:
            self._spawn(self._give_up_if_over(call, ring_s))

    async def _give_up_if_over(self, call: Call, ring_s: float) -> None:
        outbound = call.live.facts.direction.startswith("outbound")
        if outbound and await self._is_over(call) is False:
            self.watch(call, ring_s)  # queued, or ringing: nobody has told
            return
        log.warning("Call %s: neither its stream nor its end was reported", call.call_sid)
        call.not_answered(
            CallOutcome.FAILED, Failure(message="Neither its stream nor its end was reported."), "never_connected"
        )
        if outbound and call.call_sid:
            call.live.end_at_carrier()

    async def _is_over(self, call: Call) -> bool | None:
        """Twilio's word; None when it cannot be had."""
        control = call.live.control
        if control is None or not call.call_sid:
            return None
        try:
            return await run_in_thread(self._clock, control.is_over, f"look after call {call.call_sid}")
        except VoiceRuntimeError as error:
            log.warning("Call %s: whether it is still up could not be asked: %s", call.call_sid, error)
            return None

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- their streams --------------------------------------------------------------------------------------------

    def open_stream(self, body: StartBody, call: Call) -> LiveCall | None:
        """A stream has begun that was made for this call; None refuses it."""
        live = call.live
        if call.call_sid and call.call_sid != body.call_sid:
            log.warning("Refused a stream: its token was made for another call")
            return None
        if live.ended or call.key not in self._open:
            log.warning("Refused a stream: its call is over")
            return None
        if live.leg is not None:
            live.replace_leg()
        call.session.call_sid = call.call_sid = body.call_sid
        return live

    def _begun(self, call: Call) -> None:
        self.up[call.call_sid] = call
        try:
            call.start(self._apology)
        except Exception as error:  # no thread can be started: better no call than a silent line
            log.exception("Call %s cannot be run", call.call_sid)
            call.error = error
            call.live.hang_up("failed")

    def _over(self, call: Call) -> None:
        if self.up.get(call.call_sid) is call:
            del self.up[call.call_sid]
        self._revoke(call)
        opened = self._open.pop(call.key, None)
        if call.disowned:  # its first callback is still to be acted on
            self._disowned[call.key] = call
            asyncio.get_running_loop().call_later(_DISOWNED_S, self._disowned.pop, call.key, None)
        elif opened is not None:
            self.finished.append(call)
            self._late[call.key] = (self._clock.monotonic() + _LATE_S, weakref.ref(call))
        while self._late and next(iter(self._late.values()))[0] <= self._clock.monotonic():
            self._late.popitem(last=False)

    def _lost(self, call: Call) -> None:
        """The stream broke. Twilio's own word is quicker than waiting, should the call be over."""

        async def look() -> None:
            if await self._is_over(call) and call.live.leg is None:
                call.live.end("caller_hung_up")

        call.live.bridge.spawn(look())

    def may_reconnect(self, call: Call) -> bool:
        """Its stream is gone, and Twilio asks what next: another one, or has that been tried often enough?"""
        now = self._clock.monotonic()
        losses = [at for at in self._losses.get(call, []) if now - at < _LOSSES_WITHIN_S]
        self._losses[call] = [*losses, now]
        return len(losses) < _LOSSES

    def _end_disowned(self, call: Call) -> None:
        if call.live.control is not None and self._disowned.pop(call.key, None) is not None:
            log.warning("Call %s came about although its request had failed; it is ended", call.call_sid)
            call.live.end_at_carrier()

    # -- what Twilio tells ----------------------------------------------------------------------------------------

    def report(self, call: Call, report: StatusReport) -> None:
        """A status callback of a dialled call."""
        if report.call_sid and not call.call_sid:
            call.placed(report.call_sid)
        if call.disowned:
            self._end_disowned(call)
            return
        progress = self._progress.setdefault(call, CallProgress())
        news = progress.report(report)
        if report.answered_by:
            call.machine_detected(report.answered_by)  # its own callback may have been lost
        if not news:
            return
        call.status = progress.status
        if progress.outcome is not None:
            call.not_answered(progress.outcome, progress.failure)
        elif progress.over:
            call.completed()
        call.live.bridge.notify()
