"""The server: a FastAPI app with the signed webhook, the stream and a health check, and a call for every caller.

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
import functools
import logging
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import msgspec
from fastapi import FastAPI, Request, Response

from . import config, registry
from .audio.mixer import AudioMixer
from .bridge import refuse_on_event_loop
from .clock import Clock, SystemClock
from .events import CallerHeard, CallEvent, SayFinished
from .exceptions import ConfigurationError, VoiceRuntimeError
from .flow import APOLOGY, Call
from .live_call import LiveCall
from .session import VoiceSession
from .stt import create_stt
from .transport import get_sms_transport
from .transports.twilio_protocol import StartBody
from .transports.twilio_signature import SignatureValidator, public_url_of_scope
from .transports.twilio_token import TokenBook
from .transports.twilio_twiml import connect_stream, hangup, say_and_hangup
from .transports.twilio_ws import MAX_MESSAGE_BYTES, StreamEndpoint, serve_stream
from .tts import create_tts
from .workers import run_in_thread

if TYPE_CHECKING:
    import uvicorn

__all__ = ["CallFacts", "VoiceServer"]

log = logging.getLogger(__name__)

_INBOUND_TOKEN_S = 60.0
"""Twilio connects within a second of having the TwiML."""
_DEFAULTS = {"stt": ("elevenlabs", "pocketsphinx"), "tts": ("elevenlabs", "espeak")}
_WEBHOOK_LIMIT = 65_536
_PORT_WAIT_S = 15.0
_STATUS_PATIENCE_S = 60.0
_FLOW_GRACE_S = 5.0
_EXECUTOR_GRACE_S = 5.0


class CallFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a call before its stream is up. A flow factory is called with it.

    Numbers are as Twilio writes them: E.164, ``sip:...``, ``client:...`` or ``anonymous``.
    """

    call_sid: str = ""
    caller: str = ""
    called: str = ""
    direction: str = ""


class _Expected:
    """What a token stands for: a call whose stream is to come."""

    __slots__ = ("call", "facts")

    def __init__(self, facts: CallFacts, call: Call) -> None:
        self.facts = facts
        self.call = call


def _hang_up_call(settings: Callable[[], config.Settings], call_sid: str) -> None:
    from .transports.twilio_call import hang_up_call

    hang_up_call(call_sid, settings=settings())


def _log_transcript(event: CallEvent) -> None:
    match event:
        case CallerHeard(call_sid=sid, text=text):
            log.info("Call %s: the caller said %r", sid, text)
        case SayFinished(call_sid=sid, heard_text=text):
            log.info("Call %s: the agent was heard to say %r", sid, text)


class VoiceServer:
    """Serves one flow.

    Args:
        flow: a :class:`VoiceSession` subclass, or a function that makes a session from :class:`CallFacts`.
        stt: the recogniser of the calls: a registry name (``"pocketsphinx"``), a class, or a function that makes one
            (an ``SttProvider`` or a ``Recognizer``). Default: the setting ``VOICE_STT``, else one that is installed.
            A flow that sets ``stt_factory`` has its own.
        tts: the voice, likewise (``"espeak"``, ``VOICE_TTS``).
        apology: what the caller hears when ``run()`` fails; None: nothing.
        settings: instead of those of the environment.
        insecure: accept webhooks and streams that Twilio has not signed. Only for a line on your own machine.
        observer: called with every event of every call, on the call's callback thread.

    Raises:
        ProviderUnavailableError: the provider that was named is not installed; the message holds the install line.
        ProviderNotFoundError: there is none of that name.
    """

    def __init__(
        self,
        flow: type[VoiceSession] | Callable[[CallFacts], VoiceSession],
        *,
        stt: str | Callable[[], Any] | None = None,
        tts: str | Callable[[], Any] | None = None,
        apology: str | None = APOLOGY,
        settings: config.Settings | None = None,
        insecure: bool = False,
        observer: Callable[[CallEvent], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if isinstance(flow, VoiceSession) or not callable(flow):
            raise TypeError("VoiceServer takes the session's class (or a function that makes one), not a session")
        self._flow = flow
        self._own_settings = settings
        self._make_stt = self._factory("stt", stt)
        self._make_tts = self._factory("tts", tts)
        self._apology = apology
        self._insecure = insecure
        self._observer = observer
        self._clock = clock or SystemClock()
        self._tokens: TokenBook[_Expected] = TokenBook()
        self._calls: dict[str, Call] = {}
        self._dialled: dict[str, Call] = {}
        self._finished: deque[Call] = deque(maxlen=100)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.app = self._make_app()

    @property
    def calls(self) -> list[Call]:
        """The calls that are up."""
        return list(self._calls.values())

    @property
    def finished(self) -> list[Call]:
        """The calls that are over, oldest first; the last hundred. Their ``run()`` may still be about to end:
        :meth:`Call.wait`."""
        return list(self._finished)

    def settings(self) -> config.Settings:
        """The settings as they are now."""
        return self._own_settings or config.load()

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
        calls = {id(call): call for call in [*self._dialled.values(), *self._calls.values()]}
        for call in calls.values():
            try:
                call.hang_up()
            except VoiceRuntimeError as error:
                log.warning("Call %s could not be ended: %s", call.call_sid, error)
        deadline = self._clock.monotonic() + timeout
        for call in calls.values():
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

    # -- placing calls --------------------------------------------------------------------------------------------

    def dial(self, to: str, **options: Any) -> Call:
        """Place a call; returns once Twilio has taken the request.

        Args:
            to: the number, in international form, ``sip:`` or ``client:``.
            options: as those of :func:`~voice_runtime.transports.twilio_call.initiate_outbound_call`: ``timeout``
                (s of ringing), ``time_limit``, ...

        Raises:
            InvalidNumberError: refused before any request.
            ConfigurationError: a setting is missing.
            RestError: Twilio refused, or it is unknown whether it has taken the request (``maybe_done``).
        """
        from .transports.twilio_call import initiate_outbound_call

        refuse_on_event_loop("dial()")
        loop = self._loop
        if loop is None:
            raise ConfigurationError(
                "dial() needs the server to be running in this process, for Twilio connects the call to it: "
                "use it inside `with server.running():`."
            )
        settings = self.settings()
        ring_s = float(options.get("timeout") or 60)
        facts = CallFacts(called=to, caller=settings.twilio_phone_number or "", direction="outbound-api")
        call = self._new_call(facts)
        expected = _Expected(facts, call)
        # Longer than it can ring: Twilio allows itself five seconds more, and then connects the stream.
        token = self._tokens.issue(expected, self._clock.monotonic(), ring_s + 30)
        self._dialled[token] = call  # before the request: the first callback may overtake its answer
        try:
            call.call_sid = initiate_outbound_call(
                to,
                twiml=connect_stream(settings.stream_url(f"/voice/{token}")),
                status_callback=settings.public_url(f"/voice/status/{token}"),
                settings=settings,
                **options,
            )
        except BaseException:
            self._tokens.revoke(token)
            self._dialled.pop(token, None)
            raise
        if call.session.call_sid is None:
            call.session.call_sid = call.call_sid
        loop.call_soon_threadsafe(loop.call_later, ring_s + _STATUS_PATIENCE_S, self._give_up, token)
        return call

    def _give_up(self, token: str) -> None:
        """Neither the stream nor a status has come for a call that can ring no longer."""
        call = self._dialled.get(token)
        if call is None or self._loop is None:
            return
        if call.session.live.started_at is None:
            log.warning("Call %s: neither its stream nor its end was reported", call.call_sid)
            call.session.live.end("never_connected")
            del self._dialled[token]
        elif call.session.live.ended:
            del self._dialled[token]  # its last status never came
        else:
            self._loop.call_later(_STATUS_PATIENCE_S, self._give_up, token)

    # -- the app --------------------------------------------------------------------------------------------------

    def _make_app(self) -> FastAPI:
        app = FastAPI(lifespan=self._lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/health", self._health, methods=["GET"])
        app.add_api_route("/voice", self._on_inbound_call, methods=["POST"])
        app.add_api_route("/voice/status/{token}", self._on_status, methods=["POST"])
        endpoint = StreamEndpoint(
            self._open_call,
            clock=self._clock,
            settings=self.settings,
            tokens=self._tokens,
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
            for call in self.calls:
                call.session.live.hang_up("server_stopped")
            await run_in_thread(self._clock, self._wait_for_flows, "voice-server-stop")

    def _wait_for_flows(self) -> None:
        """The sockets are closed; let what run() does behind its last verb come to an end."""
        deadline = self._clock.monotonic() + _FLOW_GRACE_S
        for call in [*self.calls, *self.finished]:
            if call.flow_running and not call.wait(max(0.0, deadline - self._clock.monotonic())):
                log.warning("Call %s: run() has not ended with the server", call.call_sid)

    async def _health(self) -> dict[str, Any]:
        return {"status": "ok", "calls": len(self._calls)}

    async def _on_inbound_call(self, request: Request) -> Response:
        form = await self._signed_form(request)
        if form is None:
            return Response(status_code=403)
        facts = CallFacts(
            call_sid=form.get("CallSid", ""),
            caller=form.get("From", ""),
            called=form.get("To", ""),
            direction=form.get("Direction", "inbound"),
        )
        try:
            # In a thread, for the flow's constructor is user code.
            call = await run_in_thread(self._clock, lambda: self._new_call(facts), "call-constructor")
            token = self._tokens.issue(_Expected(facts, call), self._clock.monotonic(), _INBOUND_TOKEN_S)
            twiml = connect_stream(self.settings().stream_url(f"/voice/{token}"))
        except Exception:
            log.exception("Call %s cannot be served", facts.call_sid)
            twiml = say_and_hangup(self._apology) if self._apology else hangup()
        return Response(twiml, media_type="text/xml")

    async def _on_status(self, request: Request) -> Response:
        form = await self._signed_form(request)
        if form is None:
            return Response(status_code=403)
        call = self._dialled.get(request.path_params["token"])
        if call is not None:
            status = form.get("CallStatus", "")
            call.report_status(status)
            if status in ("completed", "busy", "no-answer", "failed", "canceled"):
                self._dialled.pop(request.path_params["token"], None)
        return Response(status_code=204)

    async def _signed_form(self, request: Request) -> dict[str, str] | None:
        """The form's fields when Twilio has signed it; None when not."""
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > _WEBHOOK_LIMIT:
                log.warning("Refused a webhook: its body is larger than %d bytes", _WEBHOOK_LIMIT)
                return None
        if not self._insecure:
            try:
                settings = self.settings()
                url = public_url_of_scope(request.scope, settings.public_url())
            except ConfigurationError as error:
                log.error("Refused a webhook: its signature cannot be checked. %s", error)
                return None
            validator = SignatureValidator(settings.auth_tokens, settings.shared_keys)
            if not validator.valid_form(url, body, request.headers):
                return None
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True)
        except ValueError:
            return None
        return {name: values[0] for name, values in fields.items()}

    # -- calls ----------------------------------------------------------------------------------------------------

    def _new_call(self, facts: CallFacts) -> Call:
        settings = self.settings()
        session = self._flow() if isinstance(self._flow, type) else self._flow(facts)
        session.use_clock(self._clock)
        if self._observer is not None:
            session.subscribe(self._observer)
        if session.setting("stt_factory") is None:
            session.stt_factory = self._make_stt
        if session.setting("tts_factory") is None:
            session.tts_factory = self._make_tts
        if session.setting("sms_factory") is None:
            session.sms_factory = lambda: get_sms_transport(settings=self.settings())
        if settings.voice_monitor:
            session.set_mixer(AudioMixer(monitor=True, clock=self._clock))
        if settings.voice_log_transcripts:
            session.subscribe(_log_transcript)
        live = session.live
        live.caller, live.called, live.direction = facts.caller, facts.called, facts.direction
        return Call(session, functools.partial(_hang_up_call, self.settings))

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
        return name or next((name for name in _DEFAULTS[kind] if registry.is_provider_available(kind, name)), None)

    def _open_call(self, body: StartBody, expected: _Expected) -> LiveCall | None:
        facts = expected.facts
        if facts.call_sid and facts.call_sid != body.call_sid:
            log.warning("Refused a stream: its token was made for another call")
            return None
        call = expected.call
        live = call.session.live
        if live.ended or live.started_at is not None:
            log.warning("Refused a stream: its session has a call already")
            return None
        call.session.call_sid = body.call_sid
        live.on_begun.append(functools.partial(self._begun, call, live))
        return live

    def _begun(self, call: Call, live: LiveCall) -> None:
        self._calls[live.call_sid] = call
        live.on_over.append(functools.partial(self._over, call, live))
        call.start(self._apology)

    def _over(self, call: Call, live: LiveCall) -> None:
        if self._calls.get(live.call_sid) is call:
            del self._calls[live.call_sid]
        self._finished.append(call)
