"""What all parts of the fake Twilio share: account, numbers, telephones, log, network, settings, time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from ..transports.mock_wire import make_sid
from .fake_twilio_bridging import Switchboard
from .fake_twilio_log import EventLog, LogEntry
from .fake_twilio_network import Network
from .fake_twilio_records import CallRecord, FarEnd, MessageRecord, OwnedNumber, RecordingRecord
from .fake_twilio_settings import Faults, Timings
from .fake_twilio_twiml import Problem, Verb, read_number
from .fake_twilio_webhooks import Form, WebhookClient

__all__ = ["API_VERSION", "MAGIC_NUMBER", "Exchange", "country_of", "first_of", "rfc2822", "sleep_until"]

API_VERSION = "2010-04-01"

MAGIC_NUMBER = "+15005550006"
"""Valid as a sender everywhere: https://www.twilio.com/docs/iam/test-credentials."""


def rfc2822(at: float) -> str:
    """A date as the API writes it: ``Tue, 31 Aug 2010 20:36:28 +0000``."""
    return format_datetime(datetime.fromtimestamp(at, UTC))


def country_of(number: str) -> str:
    """The country of an E.164 number, two letters; empty when it has none."""
    import phonenumbers

    try:
        parsed = phonenumbers.parse(number)
    except phonenumbers.NumberParseException:
        return ""
    main = phonenumbers.COUNTRY_CODE_TO_REGION_CODE.get(parsed.country_code or 0, ("",))[0]
    return phonenumbers.region_code_for_number(parsed) or main


async def first_of(*events: asyncio.Event) -> None:
    """Wait until one of these is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


async def sleep_until(when_s: float) -> None:
    """Sleep until a time of the loop, which may be past."""
    await asyncio.sleep(max(0.0, when_s - asyncio.get_running_loop().time()))


class Exchange:
    """Belongs to the fake's loop once it runs."""

    def __init__(
        self, *, account_sid: str, auth_token: str, timings: Timings, faults: Faults, now: Callable[[], float]
    ) -> None:
        self.account_sid = account_sid
        self.auth_token = auth_token
        self.secondary_auth_token = make_sid("")
        self.shared_key = (make_sid("SH"), make_sid(""))
        self.timings = timings
        self.faults = faults
        self.now = now
        """Seconds since 1970."""
        self.insecure_ok = True
        self.numbers: dict[str, OwnedNumber] = {}
        self.caller_ids: set[str] = set()
        self.allowed_countries: set[str] | None = None
        """Two letters each; None allows all."""
        self.phones: dict[str, FarEnd] = {}
        self.default_phone: Callable[[], FarEnd] = FarEnd
        self.calls: dict[str, CallRecord] = {}
        self.messages: dict[str, MessageRecord] = {}
        self.messaging_services: dict[str, list[str]] = {}
        """``MG...`` -> the numbers in its pool; none stands for all of the account's."""
        self.recordings: dict[str, RecordingRecord] = {}
        self.api_base_url = "https://api.twilio.com"
        """Where the REST API is reached; URLs of recordings begin with it."""
        self.opted_out: set[tuple[str, str]] = set()
        """(from, to) pairs whose recipient has sent STOP."""
        self.log = EventLog()
        self.network = Network()
        self.webhooks = WebhookClient(
            self.network,
            self.log,
            timings=lambda: self.timings,
            faults=lambda: self.faults,
            auth_token=lambda: self.auth_token,
            secondary_auth_token=self.secondary_auth_token,
            shared_key=self.shared_key,
        )
        self.switchboard = Switchboard()
        self.on_awake: Callable[[CallRecord], None] = lambda call: None
        """Called once for each call: the person at its far end has something to hear, or somebody to talk to."""
        self.failures: list[Exception] = []
        """What went wrong in the fake itself."""
        self._tasks: set[asyncio.Task[Any]] = set()

    def may_call(self, address: str) -> bool:
        """Whether the voice geographic permissions allow it; they are about telephone numbers only."""
        return self.allowed_countries is None or address[:1] != "+" or country_of(address) in self.allowed_countries

    def note(self, kind: str, *, sid: str = "", code: int | None = None, text: str = "", **data: Any) -> None:
        """An entry in the log."""
        at_s = asyncio.get_running_loop().time()
        self.log.add(LogEntry(at_s=at_s, kind=kind, sid=sid, code=code, text=text, data=data))

    def report(self, call: CallRecord, problem: Problem) -> None:
        """An entry in Twilio's debugger."""
        kind = "error" if problem.fatal else "warning"
        self.note(kind, sid=call.sid, code=problem.code, text=problem.message)

    def number(self, call: CallRecord, verb: Verb, name: str, default: float) -> float:
        """A number among the attributes; the default, and a warning, when it is none."""
        value = read_number(verb, name, default)
        if isinstance(value, Problem):
            self.report(call, value)
            return default
        return value

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task of the fake's own; ended with it."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def awake(self, call: CallRecord) -> None:
        """The person at the far end begins to act, if not done before."""
        if not call.scripted:
            call.scripted = True
            self.on_awake(call)

    async def close(self) -> None:
        """End every task, then the network."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.switchboard.close()
        await self.network.close()

    def identity(self, call: CallRecord) -> Form:
        """The parameters every request about a call begins with."""
        form = [
            ("AccountSid", self.account_sid),
            ("ApiVersion", API_VERSION),
            ("CallSid", call.sid),
            ("From", call.from_),
            ("To", call.to),
            ("Caller", call.from_),
            ("Called", call.to),
            ("Direction", call.direction),
        ]
        for prefix, number in (("From", call.from_), ("To", call.to), ("Caller", call.from_), ("Called", call.to)):
            # Mostly blank on the real line too, and blank values count in the signature.
            form += [(prefix + "City", ""), (prefix + "State", ""), (prefix + "Zip", "")]
            form.append((prefix + "Country", country_of(number)))
        if call.parent_sid is not None:
            form.append(("ParentCallSid", call.parent_sid))
        return form

    def voice_form(self, call: CallRecord, extra: Form) -> Form:
        """The parameters of a request for TwiML."""
        form = [*self.identity(call), ("CallStatus", call.status), *call.extra_voice, *extra]
        if call.answered_by is not None:
            form += [("AnsweredBy", call.answered_by), ("MachineDetectionDuration", str(call.detection_ms))]
        return form
