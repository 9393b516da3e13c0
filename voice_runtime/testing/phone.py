"""The far end of a fake Twilio's calls: a telephone, and the call as the person at it experiences it.

::

    def person(call):
        call.wait_heard_ms(500)
        call.wait_quiet(700)
        call.says(yes_please)            # μ-law, 8000 Hz
        call.press("1")
        call.hang_up()

    fake.phones["+358401234567"] = Phone(ring_ms=2000, script=person)
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..clock import Clock
from ..exceptions import CallHangupError
from ..transports.mock_audio import HeardAudio
from .fake_twilio_bridging import press
from .fake_twilio_calls import CallEngine
from .fake_twilio_log import EventLog, LogEntry
from .fake_twilio_records import CallRecord, FarEnd, StreamRecord

__all__ = ["FakeCall", "Phone"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_POLL_S = 0.02  # what is heard changes with every frame


class Phone(FarEnd, kw_only=True):
    """A telephone, as it behaves when it is called or calls.

    ``script(call)`` runs in a thread of its own once the call's first stream is up, or before that once somebody else
    can be talked to: it is joined with another call, a conference or a queue, or ``<Record>`` has beeped. A telephone
    that ``<Dial>`` rings begins when it answers. The script ends quietly when the call ends under it; any other
    exception hangs up and is raised again by :meth:`FakeCall.wait_ended`.
    """

    script: Callable[[FakeCall], object] | None = None


class FakeCall:
    """One call, as its far end and a test see it. All methods may be called from any thread but the loop's.

    Verbs that need the call raise :class:`~voice_runtime.exceptions.CallHangupError` once it is over; waits that last
    too long raise TimeoutError. Timeouts are seconds of the fake's clock.
    """

    def __init__(
        self,
        record: CallRecord,
        engine: CallEngine,
        log: EventLog,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        face: Callable[[CallRecord], FakeCall],
        legs: Callable[[str], list[FakeCall]],
    ) -> None:
        self._record = record
        self._engine = engine
        self._log = log
        self._loop = loop
        self._clock = clock
        self._face = face
        self._legs = legs
        self._heard_so_far = 0  # bytes of what was heard that hears() has dealt with
        self._heard_at_turn = 0
        self.script_error: BaseException | None = None
        self._script_over = clock.event()
        self._script_running = False

    # -- facts --------------------------------------------------------------------------------------------------

    @property
    def sid(self) -> str:
        return self._record.sid

    @property
    def to(self) -> str:
        return self._record.to

    @property
    def from_(self) -> str:
        return self._record.from_

    @property
    def status(self) -> str:
        """Twilio's status now."""
        return self._record.status

    @property
    def status_history(self) -> list[tuple[float, str]]:
        """(time of the loop in s, status), with ``initiated``, which otherwise only callbacks show."""
        return list(self._record.status_history)

    @property
    def outcome(self) -> str | None:
        """How it ended: completed, busy, rejected, no-answer, failed, canceled; None while it lasts."""
        if self._record.alive:
            return None
        return "rejected" if self._record.sip_code == 603 else self._record.status

    @property
    def heard(self) -> HeardAudio:
        """What the far end heard: of streams, ``<Play>`` and whom it is joined with; ms since the call was made."""
        return self._record.heard

    @property
    def streams(self) -> list[StreamRecord]:
        """The media streams, in order."""
        return list(self._record.streams)

    @property
    def events(self) -> list[LogEntry]:
        """What the fake's log says about this call."""
        return self._log.entries(sid=self.sid)

    @property
    def said(self) -> list[str]:
        """Texts of ``<Say>``."""
        return list(self._record.said)

    @property
    def keys_heard(self) -> str:
        """Keys the far end heard: ``<Play digits>``, ``SendDigits``, and of whom it is joined with."""
        return self._record.keys_heard

    @property
    def peer(self) -> FakeCall | None:
        """The call that this one is, or was last, joined with: by ``<Dial>``, or as the other end of a call between
        two numbers of the account."""
        return None if self._record.peer is None else self._face(self._record.peer)

    @property
    def answered_by(self) -> str | None:
        """What answering machine detection has found out; None before, and without it."""
        return self._record.answered_by

    @property
    def message_left(self) -> bytes:
        """What an answering machine at the far end has recorded: μ-law from the end of its beep to the hang-up, or to
        now, with the silence in between; nothing before the beep."""
        record = self._record
        if record.message_from is None:
            return b""
        begin_ms = (record.message_from / 8000 - record.heard.origin_s) * 1000
        end_ms = self.now_ms() if record.alive else (record.status_history[-1][0] - record.heard.origin_s) * 1000
        count = max(0, round((end_ms - begin_ms) * 8))
        return record.heard.window(begin_ms, count) or b"\xff" * count

    def now_ms(self) -> float:
        """Time on the scale of :attr:`heard`."""
        return (self._clock.monotonic() - self._record.heard.origin_s) * 1000

    # -- the person at the phone --------------------------------------------------------------------------------

    def says(self, ulaw: bytes) -> None:
        """Speak, after what is being said; returns when the last of it has left."""
        self._do(self._says(ulaw))

    async def _says(self, ulaw: bytes) -> None:
        self._record.mouth.say(ulaw)
        await self._unless_over(self._record.mouth.spoken())

    def begins_to_say(self, ulaw: bytes) -> None:
        """Speak, and return at once."""
        self._do(self._begins_to_say(ulaw))

    async def _begins_to_say(self, ulaw: bytes) -> None:
        self._record.mouth.say(ulaw)

    def stops_talking(self) -> None:
        """Fall silent in the middle of a word."""
        self._do(self._stops_talking())

    async def _stops_talking(self) -> None:
        self._record.mouth.stop()

    def press(self, digits: str) -> None:
        """Keys, a quarter of a second each."""
        self._do(self._press(digits))

    async def _press(self, digits: str) -> None:
        if (far := self._record.far) is not None:
            raise RuntimeError(f"expected a person at the far end; there is another call of the account, {far.sid}")
        for digit in digits:
            press(self._record, digit)
            await self._unless_over(asyncio.sleep(0.25))

    def hang_up(self) -> None:
        """Put the receiver down. Nothing happens when the call is over already."""
        self._do(self._hang_up(), over_is_fine=True)

    async def _hang_up(self) -> None:
        self._engine.hang_up(self._record)

    def sleep(self, seconds: float) -> None:
        """Do nothing for so long."""
        self._do(self._unless_over(asyncio.sleep(seconds)))

    # -- hearing ------------------------------------------------------------------------------------------------

    def hears(self, what: bytes | float, timeout: float = 30) -> None:
        """Wait until this is heard after what earlier calls of this method dealt with.

        Args:
            what: audio that must come in one piece, or so many ms of anything.

        Raises:
            TimeoutError: it is not heard in time.
        """
        self._do(self._hears(what, timeout))

    async def _hears(self, what: bytes | float, timeout: float) -> None:
        if not isinstance(what, (bytes, int, float)):
            raise TypeError(
                f"hears() takes μ-law bytes or milliseconds, not {type(what).__name__!r}: for the words look at the "
                "server's side of the call, its transcript"
            )
        heard = self._record.heard

        def reached() -> int | None:
            if isinstance(what, bytes):
                at = heard.find(what, self._heard_so_far)
                return None if at < 0 else at + len(what)
            end = self._heard_so_far + round(what * 8)
            return end if heard.heard_bytes() >= end else None

        wanted = f"{len(what) / 8:g} ms of given audio" if isinstance(what, bytes) else f"{what:g} ms of audio"
        await self._poll(lambda: reached() is not None, timeout, f"{wanted} to be heard")
        self._heard_so_far = reached() or 0

    def wait_heard_ms(self, ms: float, timeout: float = 30) -> None:
        """Wait until so much has been heard since the call began."""
        self._do(self._poll(lambda: self.heard.heard_ms() >= ms, timeout, f"{ms:g} ms to be heard in all"))

    def wait_quiet(self, ms: float, timeout: float = 60) -> None:
        """Wait until nothing has been heard for so long; before the first sound, since this was called."""
        self._do(self._wait_quiet(ms, timeout))

    def wait_turn(self, quiet_ms: float = 600, timeout: float = 60) -> None:
        """Wait for one's turn to speak: something new has been heard since the last turn, and then nothing for
        ``quiet_ms``."""
        self._do(self._wait_turn(quiet_ms, timeout))

    async def _wait_turn(self, quiet_ms: float, timeout: float) -> None:
        before = self._heard_at_turn
        await self._poll(lambda: self.heard.heard_bytes() > before, timeout, "the other end to speak")
        await self._wait_quiet(quiet_ms, timeout)
        self._heard_at_turn = self.heard.heard_bytes()

    async def _wait_quiet(self, ms: float, timeout: float) -> None:
        begin = self.now_ms()

        def quiet() -> bool:
            since = self.heard.last_ms()
            return self.now_ms() - (begin if since is None else since) >= ms - 0.1

        await self._poll(quiet, timeout, f"{ms:g} ms of quiet")

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait_streaming(self, timeout: float = 30) -> None:
        """Wait until the first stream is up."""
        self._do(self._wait_streaming(timeout))

    async def _wait_streaming(self, timeout: float) -> None:
        await self._poll(self._record.streaming.is_set, timeout, "the stream to start")

    def wait_joined(self, timeout: float = 60) -> None:
        """Wait until the call is joined with another one (:attr:`peer`), or in a conference that has begun."""
        self._do(self._poll(lambda: self._record.keys_to is not None, timeout, "somebody to be joined with"))

    def wait_ended(self, timeout: float = 60) -> str:
        """Wait until the call is over, its callbacks delivered and its script ended; returns :attr:`outcome`.

        Raises:
            TimeoutError: it lasts longer.
            BaseException: what the script raised.
        """
        self._do(self._wait_ended(timeout), over_is_fine=True)
        if self._script_running and self._script_over.wait(timeout) and self.script_error is not None:
            raise self.script_error
        return self.outcome or ""

    async def _wait_ended(self, timeout: float) -> None:
        try:
            async with asyncio.timeout(timeout):
                await self._record.done.wait()
        except TimeoutError:
            raise TimeoutError(
                f"expected call {self.sid} to end within {timeout:g} s; {'; '.join(self._still())}"
            ) from None

    def _still(self) -> list[str]:
        """What this call, and those it was put through to, are still at."""
        said = [f"it is {self.status}"]
        if self._script_running and not self._script_over.is_set():
            said.append("its script still runs")
        for leg in self._legs(self.sid):
            if not leg._record.alive:
                continue
            at = ", its script still runs" if leg._script_running and not leg._script_over.is_set() else ""
            said.append(f"call {leg.sid} to {leg.to} is {leg.status}{at}")
        return said

    async def _poll(self, reached: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = self._loop.time() + timeout
        while True:
            self._record.sync()
            if reached():
                return
            if not self._record.alive:
                raise CallHangupError(f"The call ended ({self.status}) while waiting for {what}")
            if self._loop.time() >= deadline:
                heard = self.heard.heard_ms()
                raise TimeoutError(f"waited {timeout:g} s for {what}; {heard:g} ms were heard so far")
            await asyncio.sleep(_POLL_S)

    async def _unless_over(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        over = asyncio.ensure_future(self._record.ended.wait())
        try:
            await asyncio.wait({task, over}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise CallHangupError(f"The call has ended ({self.status})")
        finally:
            task.cancel()
            over.cancel()

    def _do(self, work: Coroutine[Any, Any, T], *, over_is_fine: bool = False) -> T:
        """Run a coroutine on the fake's loop and block this thread through the clock."""
        if not over_is_fine and not self._record.alive:
            work.close()
            raise CallHangupError(f"The call has ended ({self.status})")
        return block_on(work, self._loop, self._clock)

    # -- the script ---------------------------------------------------------------------------------------------

    def wait_script(self, timeout: float = 5) -> bool:
        """Wait until the script, if there is one, has ended; False when it has not."""
        return not self._script_running or self._script_over.wait(timeout)

    def start_script(self, script: Callable[[FakeCall], object]) -> None:
        """Run the script in a thread of its own."""
        self._script_running = True

        def run() -> None:
            try:
                script(self)
            except CallHangupError:
                pass  # the call ended under it
            except BaseException as error:  # assertion errors too; wait_ended() raises it again
                logger.debug("the script of call %s failed", self.sid, exc_info=True)
                self.script_error = error
                self.hang_up()
            finally:
                self._script_over.set()

        self._clock.start_thread(run, f"phone-{self.sid[-6:]}")


def block_on(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, clock: Clock) -> T:
    """Run a coroutine on a loop and block the calling thread through the clock until it is done.

    Raises:
        RuntimeError: this is the loop's own thread.
    """
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is loop:
        work.close()
        raise RuntimeError(
            f"expected a thread other than the fake Twilio's loop ({threading.current_thread().name}); "
            "use `await asyncio.to_thread(...)`"
        )
    done = clock.event()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    future.add_done_callback(lambda _: done.set())
    done.wait()
    return future.result()
