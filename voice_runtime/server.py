"""The server: a FastAPI app with Twilio's webhooks, the stream and a health check, and a call for every caller.

::

    server = VoiceServer(Booking)        # server.app is an ASGI app for any server
    server.run()                         # or serve it here, until Ctrl-C

    with VoiceServer(Survey).running() as server:
        call = server.dial("+358401234567")
        call.wait()
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import logging
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from . import config, registry
from .audio.mixer import AudioMixer
from .bridge import refuse_on_event_loop
from .clock import Clock, SystemClock
from .events import CallerHeard, CallEvent, SayFinished
from .exceptions import ConfigurationError, RestError
from .facts import CallFacts
from .flow import APOLOGY, Call
from .messages import MessageDesk, SmsHandler
from .policy import CallPolicy, Guard
from .session import VoiceSession
from .stt import create_stt
from .switchboard import Flow, Refusal, Switchboard
from .transports.twilio_control import CallUrls, TwilioControl
from .transports.twilio_sms import SmsResult
from .transports.twilio_token import TokenBook
from .transports.twilio_ws import MAX_MESSAGE_BYTES, StreamEndpoint, serve_stream
from .tts import create_tts
from .webhooks import BUSY_MESSAGE, Webhooks
from .workers import run_in_thread

if TYPE_CHECKING:
    import uvicorn

__all__ = ["VoiceServer"]

log = logging.getLogger(__name__)

_PORT_WAIT_S = 15.0
_FLOW_GRACE_S = 5.0
_EXECUTOR_GRACE_S = 5.0
_DEFAULT_RING_S = 60
_QUEUE_S = 14_400.0  # a call above the account's calls per second waits in Twilio's queue
_DETECTION_S = 30  # https://www.twilio.com/docs/voice/answering-machine-detection, MachineDetectionTimeout
_CALLBACK_WAIT_S = 5.0  # for the first callback of a call whose request was not answered


def _log_transcript(event: CallEvent) -> None:
    match event:
        case CallerHeard(call_sid=sid, text=text):
            log.info("Call %s: the caller said %r", sid, text)
        case SayFinished(call_sid=sid, heard_text=text):
            log.info("Call %s: the agent was heard to say %r", sid, text)


class VoiceServer:
    """Serves one flow, or one for each of several numbers.

    Args:
        flow: a :class:`VoiceSession` subclass; or a function that is given :class:`CallFacts` and returns a session,
            a class, ``reject()`` or ``busy()``; or a dict of such, by our number (the one that was called; for a
            call that is dialled, its caller id) in E.164, ``"*"`` for any other.
        stt: the recogniser of the calls: a registry name (``"pocketsphinx"``), a class, or a function that makes one
            (an ``SttProvider`` or a ``Recognizer``). Default: the setting ``VOICE_STT``, else one that is installed.
            A flow that sets ``stt_factory`` has its own.
        tts: the voice, likewise (``"espeak"``, ``VOICE_TTS``).
        apology: what the caller hears when ``run()`` fails, and from Twilio's voice when the call cannot be had back
            from a lost stream; None: nothing.
        on_sms: called with every text message that comes in (an
            :class:`~voice_runtime.transports.twilio_sms_webhooks.IncomingSms`), in a thread of its own; what it
            returns is sent back.
        policy: who may be called and texted, and how much; default: that of the settings.
        busy_message: said to who calls when ``VOICE_MAX_CALLS`` are up; None: the engaged tone.
        settings: instead of those of the environment.
        insecure: accept webhooks and streams that Twilio has not signed. Only for a line on your own machine.
        observer: called with every event of every call, on the call's callback thread; with the status of a message
            whose call is over, on another.

    Raises:
        ProviderUnavailableError: the provider that was named is not installed; the message holds the install line.
        ProviderNotFoundError: there is none of that name.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        stt: str | Callable[[], Any] | None = None,
        tts: str | Callable[[], Any] | None = None,
        apology: str | None = APOLOGY,
        on_sms: SmsHandler | None = None,
        policy: CallPolicy | None = None,
        busy_message: str | None = BUSY_MESSAGE,
        settings: config.Settings | None = None,
        insecure: bool = False,
        observer: Callable[[CallEvent], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        _check_flow(flow)
        self._flow = flow
        self._own_settings = settings
        self._make_stt = self._factory("stt", stt)
        self._make_tts = self._factory("tts", tts)
        self._policy = policy
        self._guard: Guard | None = None
        self._guard_lock = threading.Lock()
        self._insecure = insecure
        self._observer = observer
        self._clock = clock or SystemClock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._switchboard = Switchboard(clock=self._clock, equip=self._equip, apology=apology, tokens=TokenBook())
        self._messages = MessageDesk(
            settings=self.settings, guard=self.guard, clock=self._clock, handler=on_sms, observer=observer
        )
        self._webhooks = Webhooks(
            self._switchboard,
            self._messages,
            flow,
            settings=self.settings,
            clock=self._clock,
            insecure=insecure,
            busy_message=busy_message,
            apology=apology,
        )
        self.app = self._make_app()

    @property
    def calls(self) -> list[Call]:
        """The calls that are up."""
        return list(self._switchboard.up.values())

    @property
    def finished(self) -> list[Call]:
        """The calls that are over, oldest first; the last hundred. Their ``run()`` may still be about to end:
        :meth:`Call.wait`."""
        return list(self._switchboard.finished)

    def settings(self) -> config.Settings:
        """The settings as they are now."""
        return self._own_settings or config.load()

    def guard(self) -> Guard:
        """What every call and message of this server has to pass; made with the first."""
        with self._guard_lock:
            if self._guard is None:
                settings = self.settings()
                self._guard = Guard(
                    self._policy or CallPolicy.from_settings(settings),
                    clock=self._clock,
                    caller_id=settings.twilio_phone_number,
                    region=settings.voice_default_country,
                )
            return self._guard

    # -- serving --------------------------------------------------------------------------------------------------

    def run(self, host: str | None = None, port: int | None = None) -> None:
        """Serve until Ctrl-C. Address and port default to ``VOICE_SERVER_HOST`` and ``VOICE_SERVER_PORT``.

        Raises:
            OSError: the port is taken, or may not be used.
        """
        listening = self._listen(host, port)
        sys.stderr.write(self._greeting(listening))
        with contextlib.suppress(KeyboardInterrupt):
            self._uvicorn().run(sockets=[listening])

    def _greeting(self, listening: socket.socket) -> str:
        address, port = listening.getsockname()[:2]
        text = f"Listening on {address} port {port}, until Ctrl-C.\n"
        settings = self.settings()
        try:
            text += f"Voice webhook of your Twilio number: {settings.public_url('/voice')} (POST)\n"
        except ConfigurationError as error:
            text += f"No call can come yet: {error}\n"
        if not settings.auth_tokens and not settings.shared_keys and not self._insecure:
            text += "Every request will be refused: TWILIO_AUTH_TOKEN is not set, so no signature can be checked.\n"
        return text

    @contextlib.contextmanager
    def running(self, host: str | None = None, port: int | None = None) -> Iterator[VoiceServer]:
        """Serve in a thread while the ``with`` block runs; calls still up at its end are ended.

        Raises:
            OSError: the port is taken, or may not be used.
            RuntimeError: the server did not start for another reason.
        """
        listening = self._listen(host, port)
        server = self._uvicorn()
        loop = self._clock.new_event_loop()
        failed: list[BaseException] = []

        def serve() -> None:
            try:
                loop.run_until_complete(server.serve(sockets=[listening]))
            except BaseException as error:  # noqa: BLE001 - uvicorn leaves with SystemExit; the other thread tells
                failed.append(error)
            finally:
                with contextlib.suppress(TimeoutError):  # a worker that never returns shall not keep us
                    loop.run_until_complete(asyncio.wait_for(loop.shutdown_default_executor(), _EXECUTOR_GRACE_S))
                loop.close()

        thread = self._clock.start_thread(serve, "voice-server")
        deadline = self._clock.monotonic() + _PORT_WAIT_S
        while not server.started and thread.is_alive() and self._clock.monotonic() < deadline:
            self._clock.sleep(0.01)
        if not server.started:
            server.should_exit = True
            raise RuntimeError("The server did not start; its log says why") from (failed[0] if failed else None)
        try:
            yield self
        finally:
            self.end_calls()
            server.should_exit = True
            thread.join(30)

    def end_calls(self, timeout: float = 10.0) -> None:
        """End every call now, those that still ring too, and wait, ``timeout`` seconds at most, until their threads
        have ended."""
        calls = self._switchboard.open
        for call in calls:
            call.hang_up()
        deadline = self._clock.monotonic() + timeout
        for call in calls:
            call.live.wait_ended_at_carrier(max(0.0, deadline - self._clock.monotonic()))
            if not call.wait(max(0.0, deadline - self._clock.monotonic())):
                log.warning("Call %s did not end within %g s", call.call_sid, timeout)

    def _listen(self, host: str | None, port: int | None) -> socket.socket:
        settings = self.settings()
        host = settings.voice_server_host if host is None else host
        port = settings.voice_server_port if port is None else port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            return socket.create_server((host, port), family=family, backlog=2048)
        except OSError as error:
            # OSError(errno, text) makes the subclass that fits, PermissionError for one.
            raise OSError(error.errno, f"The server cannot listen on {host}:{port}: {error.strerror}") from error

    def _uvicorn(self) -> uvicorn.Server:
        import uvicorn

        return uvicorn.Server(
            uvicorn.Config(
                self.app,
                log_level="warning",
                # Twilio offers no compression; whether it answers pings is not known, and media itself is the sign
                # of life; nothing it sends is larger.
                ws="websockets-sansio",
                ws_per_message_deflate=False,
                ws_ping_interval=None,
                ws_max_size=MAX_MESSAGE_BYTES,
                # A peer that reads nothing must not keep the server from stopping.
                timeout_graceful_shutdown=10,
            )
        )

    # -- placing calls and messages -------------------------------------------------------------------------------

    def dial(
        self,
        to: str,
        *,
        flow: Flow | None = None,
        caller_id: str | None = None,
        timeout: int | None = None,
        time_limit: int | None = None,
        machine_detection: str | None = None,
        machine_detection_timeout: int | None = None,
        send_digits: str | None = None,
        record: bool = False,
        region: str | None = None,
    ) -> Call:
        """Place a call; returns once Twilio has taken the request. See :meth:`Call.wait_answered`, :meth:`Call.wait`.

        A request is never repeated when its outcome is unknown. When the answer to it is lost but the call exists,
        Twilio's first callback tells, and the call is returned as if nothing had happened.

        Args:
            to: a number in international form (with ``VOICE_DEFAULT_COUNTRY`` also as people there write it), or a
                ``sip:`` or ``client:`` address.
            flow: instead of the server's.
            caller_id: default ``TWILIO_PHONE_NUMBER``.
            timeout: seconds of ringing, 1 to 600; Twilio's default is 60.
            time_limit: seconds after which Twilio ends the call; default ``VOICE_MAX_CALL_SECONDS``.
            machine_detection: ``"enable"`` decides as soon as it can between person and machine, ``"message_end"``
                waits for the end of a machine's greeting. See :meth:`VoiceSession.on_machine`.
            machine_detection_timeout: seconds, 3 to 59; Twilio's default is 30.
            send_digits: keys sent once answered, for example an extension; not together with machine detection.
            record: let Twilio record the call.
            region: one of ``TWILIO_REGIONS``, with credentials of its own; default ``TWILIO_REGION``.

        Raises:
            InvalidNumberError: nothing that can be called; no request was made.
            PolicyError: a rule refuses it, and ``rule`` says which; no request was made.
            ConfigurationError: a setting is missing, or the server does not run.
            RestError: Twilio refused, or it is unknown whether it has taken the request (``maybe_done``). Should such
                a call come about all the same, it is ended.
        """
        from .transports.twilio_call import initiate_outbound_call

        refuse_on_event_loop("dial()")
        loop = self._loop
        if loop is None:
            raise ConfigurationError(
                "dial() needs the server to be running in this process, for Twilio connects the call to it: "
                "use it inside `with server.running():` (with a fake Twilio in memory, after `fake.mount(...)`)."
            )
        settings = self.settings().for_region(region)
        admission = self.guard().admit_call(to, caller_id=caller_id)
        try:
            call = self._expect_outbound(flow or self._flow, admission.number, caller_id, region, loop)
        except BaseException:
            admission.refuse()
            raise
        call.live.on_ending.append(admission.release)
        if machine_detection is not None:
            call.detection_s = float(machine_detection_timeout or _DETECTION_S)
        ring_s = _DEFAULT_RING_S if timeout is None else timeout
        urls = CallUrls(self.settings, call.key)
        try:
            call_sid = initiate_outbound_call(
                admission,
                twiml=self._webhooks.connect(call, _QUEUE_S),
                status_callback=urls.status,
                caller_id=caller_id,
                timeout=timeout,
                time_limit=time_limit,
                machine_detection=machine_detection,
                machine_detection_timeout=machine_detection_timeout,
                machine_detection_callback=urls.machine if machine_detection is not None else None,
                send_digits=send_digits,
                record=record,
                settings=settings,
            )
        except RestError as error:
            if not (error.maybe_done and call.wait_placed(_CALLBACK_WAIT_S)):
                if not error.maybe_done:
                    admission.refuse()
                self._disown(call, placed=error.maybe_done)
                raise
            log.warning("Call %s: the answer to its request was lost, but Twilio has placed it", call.call_sid)
        except BaseException:
            admission.refuse()  # before the end of the call releases it
            self._disown(call, placed=False)
            raise
        else:
            call.placed(call_sid)
        loop.call_soon_threadsafe(self._switchboard.watch, call, ring_s)
        return call

    def _expect_outbound(
        self, flow: Flow, to: str, caller_id: str | None, region: str | None, loop: asyncio.AbstractEventLoop
    ) -> Call:
        ours = caller_id or self.settings().for_region(region).twilio_phone_number or ""
        facts = CallFacts(called=to, caller=ours, direction="outbound-api")
        call = self._switchboard.expect(flow, facts, loop, region=region)
        if isinstance(call, Refusal):
            raise ConfigurationError("The flow does not make this call: it returned reject() or busy().")
        return call

    def _disown(self, call: Call, *, placed: bool) -> None:
        """The caller of dial() is told that there is no call. Should it exist all the same, nobody shall answer an
        empty line: its first callback ends it."""
        if placed:
            call.disowned = True
        else:
            self._switchboard.forget(call)
        call.live.end("never_placed")

    def send_sms(self, to: str, body: str, *, send_at: datetime.datetime | None = None) -> SmsResult:
        """Send a text message that belongs to no call; arguments, result and errors as those of
        :meth:`VoiceSession.send_sms`."""
        refuse_on_event_loop("send_sms()")
        return self._messages.send(to, body, send_at=send_at)

    def cancel_sms(self, message_sid: str) -> bool:
        """Cancel a message that was given ``send_at``; as :meth:`VoiceSession.cancel_sms`."""
        refuse_on_event_loop("cancel_sms()")
        return self._messages.cancel(message_sid)

    # -- the app --------------------------------------------------------------------------------------------------

    def _make_app(self) -> FastAPI:
        app = FastAPI(lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/health", self._health, methods=["GET"])
        self._webhooks.add_to(app)
        endpoint = StreamEndpoint(
            self._switchboard.open_stream,
            clock=self._clock,
            settings=self.settings,
            tokens=self._switchboard.tokens,
            insecure=self._insecure,
        )
        serve_stream(app, "/voice/{token}", endpoint)
        return app

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._loop = None
            # The server has closed the sockets already: what is open now is lost, away, or rings.
            calls = self._switchboard.open
            for call in calls:
                call.live.hang_up("server_stopped")
            await run_in_thread(self._clock, lambda: self._wait_for_flows(calls), "voice-server-stop")

    def _wait_for_flows(self, calls: list[Call]) -> None:
        """Let Twilio hear of the end of those that had no socket, and what run() does behind its last verb come to an
        end."""
        deadline = self._clock.monotonic() + _FLOW_GRACE_S
        for call in calls:
            call.live.wait_ended_at_carrier(max(0.0, deadline - self._clock.monotonic()))
        for call in [*calls, *self.finished]:
            if call.flow_running and not call.wait(max(0.0, deadline - self._clock.monotonic())):
                log.warning("Call %s: run() has not ended with the server", call.call_sid)

    async def _health(self) -> dict[str, Any]:
        return {"status": "ok", "calls": len(self._switchboard.up)}

    # -- what a call is given -------------------------------------------------------------------------------------

    def _equip(self, call: Call, region: str | None) -> None:
        settings, session = self.settings(), call.session
        if self._observer is not None:
            session.subscribe(self._observer)
        if session.setting("stt_factory") is None:
            session.stt_factory = self._make_stt
        if session.setting("tts_factory") is None:
            session.tts_factory = self._make_tts
        if session.setting("sms_factory") is None:
            session.sms_factory = lambda: self._messages.for_call(call)
        if settings.voice_monitor:
            session.set_mixer(AudioMixer(monitor=True, clock=self._clock))
        if settings.voice_log_transcripts:
            session.subscribe(_log_transcript)
        session.live.control = control = TwilioControl(
            CallUrls(self.settings, call.key),
            call_sid=lambda: call.call_sid,
            settings=lambda: self.settings().for_region(region),
            guard=self.guard,
            clock=self._clock,
        )
        session.live.on_ending.append(control.back)

    def _factory(self, kind: str, choice: str | Callable[[], Any] | None) -> Callable[[], Any] | None:
        if callable(choice):
            return choice
        if choice is not None and not isinstance(choice, str):
            raise TypeError(
                f"{kind} takes a provider's name, its class or a function that makes one for each call, not "
                f"{type(choice).__name__!r} object: every call has its own"
            )
        name = choice or self._configured(kind)
        if name is None:
            return None
        registry.load_class(kind, name)  # a missing extra is told now, not in the middle of a call
        return functools.partial(create_stt if kind == "stt" else create_tts, name)

    def _configured(self, kind: str) -> str | None:
        """The provider of the settings, else the first of ours that is installed."""
        settings = self.settings()
        name = settings.voice_stt if kind == "stt" else settings.voice_tts
        candidates = registry.DEFAULT_PROVIDERS[kind]
        return name or next((name for name in candidates if registry.is_provider_available(kind, name)), None)


def _check_flow(flow: object) -> None:
    if isinstance(flow, Mapping):
        for part in flow.values():
            _check_flow(part)
    elif isinstance(flow, VoiceSession) or not callable(flow):
        raise TypeError("VoiceServer takes the session's class (or a function that makes one), not a session")
