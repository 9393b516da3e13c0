"""A Twilio of our own: telephone calls, media streams, text messages and the REST API, without an account.

It behaves as Twilio's documentation and recordings of the real service say, faults included, so that code which works
here works there::

    with FakeTwilio() as fake:                                   # real time, real sockets
        fake.add_number("+15005550006", voice_url="http://127.0.0.1:8000/twilio/voice")
        call = fake.place_call(to="+15005550006", from_="+358401234567", phone=Phone(script=person))
        assert call.wait_ended() == "completed"

    with VirtualClock() as clock, FakeTwilio(clock=clock) as fake:   # virtual time, the app in memory
        fake.mount("voice.example.com", app)
        fake.add_number("+15005550006", voice_url="https://voice.example.com/twilio/voice")

An unmodified program reaches it through ``TWILIO_API_BASE_URL=`` :attr:`FakeTwilio.api_base_url`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from urllib.parse import urlencode

import httpx

from ..clock import Clock, ClockThread, SystemClock
from ..transports.mock_wire import ConnectFailure, handshake_headers, make_sid
from .fake_twilio_api import MAGIC_NUMBER, RestApi
from .fake_twilio_calls import CallEngine
from .fake_twilio_conference import ConferenceRecord
from .fake_twilio_exchange import Exchange
from .fake_twilio_log import EventLog
from .fake_twilio_messages import MessageEngine
from .fake_twilio_recordings import RecordingEngine
from .fake_twilio_records import CallRecord, FarEnd, MessageRecord, OwnedNumber, RecordingRecord
from .fake_twilio_rest import RestServer
from .fake_twilio_settings import Faults, Timings
from .fake_twilio_webhooks import Form
from .memory_wire import AsgiApp
from .phone import FakeCall, Phone, block_on

__all__ = ["FakeTwilio"]

logger = logging.getLogger(__name__)


class FakeTwilio:
    """One account. Methods may be called from any thread but the loop's.

    Attributes:
        numbers: the account's numbers; :meth:`add_number`.
        phones: number -> telephone that outbound calls meet; ``default_phone`` for all others.
        messages: text messages in both directions, in order.
        recordings: of calls, by ``Record`` or over the REST API, in order.
        log: everything that happened.
        timings, faults: how long things take, and what goes wrong.
    """

    def __init__(
        self,
        *,
        account_sid: str = "",
        auth_token: str = "",
        clock: Clock | None = None,
        timings: Timings | None = None,
        faults: Faults | None = None,
    ) -> None:
        """Nothing runs yet; see :meth:`running`. Without ``account_sid`` and ``auth_token``, new ones are made."""
        self.clock: Clock = clock or SystemClock()
        self._exchange = Exchange(
            account_sid=account_sid or make_sid("AC"),
            auth_token=auth_token or make_sid(""),
            timings=timings or Timings(),
            faults=faults or Faults(),
            now=self.clock.time,
        )
        self._exchange.default_phone = lambda: self.default_phone
        self._exchange.on_awake = self._start_script
        recordings = RecordingEngine(self._exchange)
        self._calls = CallEngine(self._exchange, recordings)
        self._messages = MessageEngine(self._exchange)
        self._api = RestApi(self._exchange, self._calls, self._messages, recordings)
        self._faces: dict[str, FakeCall] = {}
        self._mounts: list[tuple[str, AsgiApp]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._rest: RestServer | None = None
        self._stack = contextlib.ExitStack()
        self.default_phone: FarEnd = Phone()

    # -- the account --------------------------------------------------------------------------------------------

    @property
    def account_sid(self) -> str:
        return self._exchange.account_sid

    @property
    def auth_token(self) -> str:
        return self._exchange.auth_token

    @property
    def secondary_auth_token(self) -> str:
        """Signs when ``faults.signature`` is ``secondary``."""
        return self._exchange.secondary_auth_token

    @property
    def shared_key(self) -> tuple[str, str]:
        """Id and secret; signs when ``faults.signature`` is ``shared_key``."""
        return self._exchange.shared_key

    @property
    def api_keys(self) -> dict[str, str]:
        """``SK...`` -> secret; accepted by the REST API besides the account's own."""
        return self._api.api_keys

    @property
    def api_base_url(self) -> str:
        """For ``TWILIO_API_BASE_URL``; known while it runs."""
        if self._rest is None:
            raise RuntimeError(
                "The fake Twilio does not run. Use `with fake.running():`, or `with FakeTwilio() as fake:`."
            )
        return self._rest.url

    @property
    def numbers(self) -> dict[str, OwnedNumber]:
        return self._exchange.numbers

    @property
    def caller_ids(self) -> set[str]:
        """Verified numbers that are not the account's; calls may come from them."""
        return self._exchange.caller_ids

    @property
    def allowed_countries(self) -> set[str] | None:
        """The countries that may be called (``{"FI", "SE"}``), the console's geographic permissions; None is all."""
        return self._exchange.allowed_countries

    @allowed_countries.setter
    def allowed_countries(self, countries: set[str] | None) -> None:
        self._exchange.allowed_countries = countries

    @property
    def phones(self) -> dict[str, FarEnd]:
        return self._exchange.phones

    @property
    def log(self) -> EventLog:
        return self._exchange.log

    @property
    def timings(self) -> Timings:
        return self._exchange.timings

    @timings.setter
    def timings(self, timings: Timings) -> None:
        self._exchange.timings = timings

    @property
    def faults(self) -> Faults:
        return self._exchange.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._exchange.faults = faults

    @property
    def insecure_ok(self) -> bool:
        """Whether ``ws://`` to this machine is accepted in TwiML, as if it were ``wss://``; True unless changed."""
        return self._exchange.insecure_ok

    @insecure_ok.setter
    def insecure_ok(self, ok: bool) -> None:
        self._exchange.insecure_ok = ok

    @property
    def messages(self) -> list[MessageRecord]:
        return list(self._exchange.messages.values())

    @property
    def messaging_services(self) -> dict[str, list[str]]:
        """``MG...`` -> the numbers in its pool, all of the account's when there are none; see
        :meth:`add_messaging_service`."""
        return self._exchange.messaging_services

    @property
    def recordings(self) -> list[RecordingRecord]:
        """Recordings of calls, in order; their audio is at the REST API."""
        return list(self._exchange.recordings.values())

    @property
    def conferences(self) -> list[ConferenceRecord]:
        """Conferences, in order, with those that are over."""
        return list(self._calls.conferences.rooms.values())

    @property
    def calls(self) -> list[FakeCall]:
        """Every call, in order."""
        return [self._face(record) for record in list(self._exchange.calls.values())]

    def call(self, sid: str) -> FakeCall:
        """The call of this sid.

        Raises:
            KeyError: there is none.
        """
        return self._face(self._exchange.calls[sid])

    def legs(self, call: FakeCall | str) -> list[FakeCall]:
        """The calls that ``<Dial>`` has made for a call, in order; see also :attr:`FakeCall.peer`."""
        parent = call if isinstance(call, str) else call.sid
        return [self._face(record) for record in list(self._exchange.calls.values()) if record.parent_sid == parent]

    def warnings(self, call: FakeCall | str) -> list[int]:
        """The codes in Twilio's debugger about a call, in order."""
        return self.log.codes(call if isinstance(call, str) else call.sid)

    def add_number(
        self,
        number: str = MAGIC_NUMBER,
        *,
        voice_url: str = "",
        voice_method: str = "POST",
        voice_fallback_url: str = "",
        status_callback: str = "",
        sms_url: str = "",
        sms_method: str = "POST",
    ) -> OwnedNumber:
        """Buy a number."""
        owned = OwnedNumber(
            number=number,
            voice_url=voice_url,
            voice_method=voice_method,
            voice_fallback_url=voice_fallback_url,
            status_callback=status_callback,
            sms_url=sms_url,
            sms_method=sms_method,
            sid=make_sid("PN"),
        )
        self._exchange.numbers[number] = owned
        return owned

    def add_messaging_service(self, *numbers: str) -> str:
        """Make a messaging service that sends from these numbers, or from all of the account's; returns its SID."""
        sid = make_sid("MG")
        self._exchange.messaging_services[sid] = list(numbers)
        return sid

    # -- how the app is reached ---------------------------------------------------------------------------------

    def mount(self, host: str, app: AsgiApp) -> None:
        """Serve an ASGI app in memory, on the fake's loop, under this host name. Its lifespan is the fake's.

        Raises:
            RuntimeError: the app's startup fails.
        """
        if self._loop is None:
            self._mounts.append((host, app))
        else:
            block_on(self._exchange.network.mount(host, app), self._loop, self.clock)

    def route(self, host: str, address: tuple[str, int]) -> None:
        """A server on this machine stands behind a public host name; requests are signed for the public name."""
        self._exchange.network.route(host, address)

    # -- running ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self, loop: asyncio.AbstractEventLoop | None = None) -> Iterator[FakeTwilio]:
        """Run until the block ends; then every call ends, and with it every thread, task and socket.

        Args:
            loop: live on this loop, which runs already in another thread, made by the fake's clock. Without it the
                fake has a loop and a thread of its own.

        Raises:
            RuntimeError: a mounted app's startup fails; or, at the end, the fake itself failed.
        """
        thread: ClockThread | None = None
        if loop is None:
            loop = self.clock.new_event_loop()
            thread = self.clock.start_thread(loop.run_forever, "fake-twilio")
        self._loop = loop
        try:
            for host, app in self._mounts:
                block_on(self._exchange.network.mount(host, app), loop, self.clock)
            self._rest = RestServer(self._api, loop, lambda: self._exchange.faults, self.clock.time)
            self._rest.start()
            self._exchange.api_base_url = self._rest.url
            yield self
        finally:
            try:
                # First the calls: an app that hears of their end may still want to ask something.
                block_on(self._close(), loop, self.clock)
                for face in self._faces.values():
                    if not face.wait_script():
                        logger.warning("The script of call %s has not ended with the call", face.sid)
            finally:
                if self._rest is not None:
                    self._rest.stop()
                    self._rest = None
                if thread is not None:
                    loop.call_soon_threadsafe(loop.stop)
                    thread.join()
                    loop.close()
                self._loop = None
        if self._exchange.failures:
            raise RuntimeError("The fake Twilio itself failed") from self._exchange.failures[0]

    def __enter__(self) -> FakeTwilio:
        return self._stack.enter_context(self.running())

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stack.__exit__(exc_type, exc, tb)

    async def _close(self) -> None:
        calls = [call for call in self._exchange.calls.values() if call.task is not None and not call.task.done()]
        for call in calls:
            self._calls.hang_up(call)
        tasks = [call.task for call in calls if call.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await self._exchange.close()
        # Transports that are being closed finish in the iterations that follow.
        for _ in range(3):
            await asyncio.sleep(0)

    # -- calls and messages -------------------------------------------------------------------------------------

    def place_call(
        self, *, to: str = MAGIC_NUMBER, from_: str, phone: FarEnd | None = None, extra: Form | None = None
    ) -> FakeCall:
        """Somebody calls a number of the account: the app's webhook is asked what to do.

        Args:
            phone: what the caller does; ``default_phone`` when not given.
            extra: further parameters of the voice webhook (``StirVerstat``, ``ForwardedFrom``, ...).

        Raises:
            ValueError: the number is not the account's, or has no voice URL.
        """
        loop = self._running_loop()
        return self._face(block_on(self._place_call(to, from_, phone, extra), loop, self.clock))

    async def _place_call(self, to: str, from_: str, phone: FarEnd | None, extra: Form | None) -> CallRecord:
        return self._calls.place_inbound(to=to, from_=from_, phone=phone or self.default_phone, extra=extra)

    def send_message(
        self, *, to: str = MAGIC_NUMBER, from_: str, body: str, media: Sequence[tuple[str, str]] = ()
    ) -> MessageRecord:
        """Somebody writes to a number of the account; returns when the app's webhook has answered.

        Args:
            media: URL and content type of every attachment.

        Raises:
            ValueError: the number is not the account's.
        """
        loop = self._running_loop()
        return block_on(self._messages.receive(to=to, from_=from_, body=body, media=media), loop, self.clock)

    def wait_for_call(self, *, to: str | None = None, timeout: float = 30) -> FakeCall:
        """Wait until the app has made an outbound call (to this number) that was not returned before.

        Raises:
            TimeoutError: none is made.
        """
        loop = self._running_loop()
        return self._face(block_on(self._wait_for_call(to, timeout), loop, self.clock))

    async def _wait_for_call(self, to: str | None, timeout: float) -> CallRecord:
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            for record in self._exchange.calls.values():
                if record.direction == "outbound-api" and to in (None, record.to) and not record.claimed:
                    record.claimed = True
                    return record
            if asyncio.get_running_loop().time() >= deadline:
                raise TimeoutError(f"no outbound call to {to or 'anybody'} within {timeout:g} s")
            await asyncio.sleep(0.01)

    # -- somebody on the Internet -------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        url: str,
        *,
        form: Form | None = None,
        headers: Mapping[str, str] | None = None,
        signed: bool = False,
    ) -> httpx.Response:
        """Any HTTP request to an app, mounted or routed: its health page, or a webhook that is not Twilio's.

        ``signed`` signs it as the faults say Twilio does. Redirects are followed.
        """
        loop = self._running_loop()
        return block_on(self._request(method, url, form or [], dict(headers or {}), signed), loop, self.clock)

    async def _request(
        self, method: str, url: str, form: Form, headers: dict[str, str], signed: bool
    ) -> httpx.Response:
        content = None
        if form:
            headers.setdefault("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8")
            content = urlencode(form).encode()
        if signed:
            headers.update(self._exchange.webhooks.signature_headers(url, form))
        return await self._exchange.network.client.request(method, url, headers=headers, content=content)

    def knock(self, url: str, *, headers: Mapping[str, str] | None = None, signed: bool = True) -> int:
        """Try a stream's handshake and hang up at once: 101 when it was accepted, else what it was answered with.

        0 stands for no answer at all.
        """
        loop = self._running_loop()
        return block_on(self._knock(url, dict(headers or {}), signed), loop, self.clock)

    async def _knock(self, url: str, headers: dict[str, str], signed: bool) -> int:
        if signed:
            headers.update(self._exchange.webhooks.signature_headers("wss://" + url.split("://", 1)[1], []))
        wire = await self._exchange.network.connect(url, handshake_headers(url, None) + list(headers.items()))
        if isinstance(wire, ConnectFailure):
            return wire.http_status or 0
        await wire.close()
        return 101

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError(
                "The fake Twilio does not run. Use `with fake.running():`, or `with FakeTwilio() as fake:`."
            )
        return self._loop

    def _face(self, record: CallRecord) -> FakeCall:
        face = self._faces.get(record.sid)
        if face is None:
            face = FakeCall(record, self._calls, self.log, self._running_loop(), self.clock, self._face, self.legs)
            face = self._faces.setdefault(record.sid, face)
        return face

    def _start_script(self, record: CallRecord) -> None:
        phone = record.phone
        if isinstance(phone, Phone) and phone.script is not None:
            self._face(record).start_script(phone.script)
