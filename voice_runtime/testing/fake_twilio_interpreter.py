"""Executes TwiML for a call, verb by verb, as https://www.twilio.com/docs/voice/twiml describes them."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from ..transports.mock_audio import AudioSource, Ear
from ..transports.mock_line import LineEnd, MediaLine
from ..transports.mock_wire import ConnectFailure, TextWire, handshake_headers, make_sid
from .fake_twilio_congestion import WatchedWire
from .fake_twilio_dial import Legs, dial
from .fake_twilio_exchange import Exchange
from .fake_twilio_recordings import RecordingEngine, read_order
from .fake_twilio_records import CallRecord, Source, StreamRecord
from .fake_twilio_resources import RestRefusedError
from .fake_twilio_twiml import Problem, StreamOrder, Verb, parse_twiml, read_stream, resolve
from .fake_twilio_webhooks import Form, WebhookAnswer, WebhookFailure

__all__ = ["Interpreter", "digits_s"]

_XML_TYPES = ("text/xml", "application/xml", "text/html", "application/xhtml+xml")
_RECORDING = {  # attribute -> the REST API's parameter
    "channels": "RecordingChannels",
    "track": "RecordingTrack",
    "trim": "Trim",
    "recordingStatusCallback": "RecordingStatusCallback",
    "recordingStatusCallbackMethod": "RecordingStatusCallbackMethod",
    "recordingStatusCallbackEvent": "RecordingStatusCallbackEvent",
}
_DIGIT_S = 0.25  # a key's tone and the pause behind it


def digits_s(digits: str) -> float:
    """How long these keys take; ``w`` is half a second, ``W`` one."""
    return sum({"w": 0.5, "W": 1.0}.get(digit, _DIGIT_S) for digit in digits)


class _Document(msgspec.Struct, frozen=True):
    url: str
    verbs: list[Verb]


class _HangUp:
    """The document ends here, and with it the call."""


class Interpreter:
    """Belongs to the fake's loop.

    ``answer(call)`` is called when a verb picks up an inbound call.
    """

    def __init__(
        self,
        exchange: Exchange,
        legs: Legs,
        recordings: RecordingEngine,
        answer: Callable[[CallRecord], None],
    ) -> None:
        self._exchange = exchange
        self._legs = legs
        self._recordings = recordings
        self._answer = answer

    async def execute(self, call: CallRecord, source: Source) -> Source | None:
        """Fetch a document and execute it. Returns what comes next; None: the end of the call."""
        document = await self._document(call, source)
        if document is None:
            self._answer(call)
            await asyncio.sleep(self._exchange.timings.error_prompt_ms / 1000)
            return None
        for index, verb in enumerate(document.verbs):
            if verb.name == "Pause" and index == 0:
                pass  # as the first verb it leaves the telephone ringing
            elif verb.name == "Reject" and index == 0 and call.direction == "inbound" and call.start_at is None:
                self._exchange.note("verb", sid=call.sid, text=verb.name)
                self._reject(call, verb)
                return None
            else:
                self._answer(call)
            self._exchange.note("verb", sid=call.sid, text=verb.name)
            result = await self._verb(call, document, verb)
            if call.interrupted.is_set() or result is _HangUp:
                return None
            if isinstance(result, Source):
                return result
        self._answer(call)
        return None

    # -- documents ----------------------------------------------------------------------------------------------

    async def _document(self, call: CallRecord, source: Source) -> _Document | None:
        if source.twiml is not None:
            result = self._parse(call, "", source.twiml.encode())
        else:
            if source is not call.first:
                # Also lets time pass in documents that redirect to each other for ever.
                await asyncio.sleep(self._exchange.timings.webhook_ms / 1000)
            result = await self._fetch_document(call, source.url, source.method, source.extra)
            if isinstance(result, Problem) and source.fallback_url:
                self._report(call, result)
                extra = [*source.extra, ("ErrorCode", str(result.code)), ("ErrorUrl", source.url)]
                result = await self._fetch_document(call, source.fallback_url, source.fallback_method, extra)
        if isinstance(result, Problem):
            self._report(call, result)
            return None
        return result

    async def _fetch_document(self, call: CallRecord, url: str, method: str, extra: Form) -> _Document | Problem:
        form = [*self._exchange.identity(call), ("CallStatus", call.status), *call.extra_voice, *extra]
        if call.answered_by is not None:
            form += [("AnsweredBy", call.answered_by), ("MachineDetectionDuration", str(call.detection_ms))]
        answer = await self._exchange.webhooks.twiml(url, form, method=method, sid=call.sid)
        if isinstance(answer, WebhookFailure):
            return Problem(answer.code, answer.message, fatal=True)
        kind = answer.content_type.split(";")[0].strip().lower()
        if kind == "text/plain":
            return _Document(url, [Verb("Say", {}, answer.body.decode("utf-8", "replace"), ())])
        if kind.startswith("audio/"):
            return _Document(url, [Verb("Play", {}, url, ())])
        if kind not in _XML_TYPES:
            return Problem(12300, f"expected text/xml from {url}; {kind or 'no content type'} came", fatal=True)
        return self._parse(call, url, answer.body)

    def _parse(self, call: CallRecord, url: str, body: bytes) -> _Document | Problem:
        verbs, problems = parse_twiml(body)
        for problem in problems:
            if problem.fatal:
                return problem
            self._report(call, problem)
        return _Document(url, verbs)

    def _report(self, call: CallRecord, problem: Problem) -> None:
        kind = "error" if problem.fatal else "warning"
        self._exchange.note(kind, sid=call.sid, code=problem.code, text=problem.message)

    def _number(self, call: CallRecord, verb: Verb, name: str, default: float) -> float:
        """A number among the attributes; the default, and a warning, when it is none."""
        try:
            value = float(verb.attributes.get(name, default))
            if not 0 <= value < 1e6:
                raise ValueError("out of range")
        except ValueError:
            text = f"expected a number as {name} of <{verb.name}>; {verb.attributes[name]!r} came"
            self._report(call, Problem(12200, text))
            return default
        return value

    # -- verbs --------------------------------------------------------------------------------------------------

    async def _verb(self, call: CallRecord, document: _Document, verb: Verb) -> Source | type[_HangUp] | None:
        match verb.name:
            case "Say":
                await self._say(call, verb)
            case "Play":
                await self._play(call, document, verb)
            case "Pause":
                await asyncio.sleep(self._number(call, verb, "length", 1))
            case "Connect":
                return await self._connect(call, document, verb)
            case "Start":
                await self._start(call, document, verb)
            case "Stop":
                for child in verb.children:
                    name = child.attributes.get("name", "")
                    if child.name == "Recording":
                        self._recordings.stop_named(call, name)
                    else:
                        self.stop_fork(call, name)
            case "Dial":
                return await self._dial(call, document, verb)
            case "Gather":
                return await self._gather(call, document, verb)
            case "Redirect":
                url = resolve(document.url, verb.text) or document.url
                return Source(url=url, method=verb.attributes.get("method", "POST"))
            case "Hangup" | "Reject":
                return _HangUp
            case _:
                raise NotImplementedError(
                    f"The fake Twilio cannot execute <{verb.name}> (call {call.sid}). It knows Say, Play, Pause, "
                    f"Gather of keys, Dial/Number, Connect/Stream, Start and Stop of Stream and Recording, Redirect, "
                    f"Reject and Hangup."
                )
        return None

    def _reject(self, call: CallRecord, verb: Verb) -> None:
        if verb.attributes.get("reason") == "busy":
            self._legs.end(call, "busy", 486)
        else:
            self._legs.end(call, "no-answer", 603)

    async def _say(self, call: CallRecord, verb: Verb) -> None:
        times = int(self._number(call, verb, "loop", 1))
        while True:
            call.said.append(verb.text)
            await asyncio.sleep(max(1, len(verb.text)) * self._exchange.timings.say_ms_per_character / 1000)
            times -= 1
            if times == 0:
                return

    async def _play(self, call: CallRecord, document: _Document, verb: Verb) -> None:
        digits = verb.attributes.get("digits")
        if digits is not None:
            await asyncio.sleep(digits_s(digits))
            call.keys_heard += digits.replace("w", "").replace("W", "")
            return
        url = resolve(document.url, verb.text)
        answer = await self._exchange.webhooks.fetch(url, sid=call.sid)
        if isinstance(answer, WebhookFailure):
            self._exchange.note("error", sid=call.sid, code=answer.code, text=answer.message)
            return
        times = int(self._number(call, verb, "loop", 1))
        while True:
            call.played.append(url)
            await asyncio.sleep(self._length_s(answer))
            times -= 1
            if times == 0:
                return

    def _length_s(self, answer: WebhookAnswer) -> float:
        kind = answer.content_type.split(";")[0].strip().lower()
        if kind in ("audio/basic", "audio/x-mulaw", "audio/ulaw"):
            return len(answer.body) / 8000
        try:
            with wave.open(io.BytesIO(answer.body)) as sound:
                return float(sound.getnframes() / sound.getframerate())
        except (wave.Error, EOFError):
            return self._exchange.timings.play_ms / 1000

    async def _dial(self, call: CallRecord, document: _Document, verb: Verb) -> Source | None:
        action = resolve(document.url, verb.attributes.get("action", ""))
        method = verb.attributes.get("method", "POST")
        try:
            outcome = await dial(self._exchange, self._legs, call, verb, document.url)
        except asyncio.CancelledError:
            if action:
                # It is still told, before what interrupts the dialling comes to run; its answer is not used.
                form = [*self._exchange.identity(call), ("CallStatus", call.status), ("DialCallStatus", "completed")]
                self._exchange.spawn(self._exchange.webhooks.twiml(action, form, method=method, sid=call.sid))
            raise
        return Source(url=action, method=method, extra=outcome) if action else None

    async def _gather(self, call: CallRecord, document: _Document, verb: Verb) -> Source | None:
        count = int(self._number(call, verb, "numDigits", 0))
        timeout_s = self._number(call, verb, "timeout", 5)
        finish = verb.attributes.get("finishOnKey", "#")
        digits = ""
        prompt = asyncio.get_running_loop().create_task(self._prompt(call, document, verb))
        try:
            first = asyncio.get_running_loop().create_task(call.keys_pressed.get())
            await asyncio.wait({prompt, first}, return_when=asyncio.FIRST_COMPLETED)  # a key ends the prompt
            try:
                async with asyncio.timeout(timeout_s):
                    key = await first
            except TimeoutError:
                key = ""
            while key and key != finish:
                digits += key
                if count and len(digits) >= count:
                    break
                try:
                    async with asyncio.timeout(timeout_s):
                        key = await call.keys_pressed.get()
                except TimeoutError:
                    break
        finally:
            prompt.cancel()
            first.cancel()
            await asyncio.gather(prompt, first, return_exceptions=True)
        if not digits and verb.attributes.get("actionOnEmptyResult") != "true":
            return None
        url = resolve(document.url, verb.attributes.get("action", "")) or document.url
        return Source(url=url, method=verb.attributes.get("method", "POST"), extra=[("Digits", digits)])

    async def _prompt(self, call: CallRecord, document: _Document, verb: Verb) -> None:
        for child in verb.children:
            if child.name in ("Say", "Play", "Pause"):
                await self._verb(call, document, child)

    # -- streams ------------------------------------------------------------------------------------------------

    async def _connect(self, call: CallRecord, document: _Document, verb: Verb) -> Source | None:
        streams = [child for child in verb.children if child.name == "Stream"]
        if not streams:
            names = ", ".join(f"<{child.name}>" for child in verb.children) or "nothing"
            problem = Problem(12200, f"expected a <Stream> in <Connect>; {names} came")
            self._report(call, problem)
        else:
            if len(streams) > 1:
                self._report(call, Problem(12200, "a call has one bidirectional <Stream>; the others are skipped"))
            order, problems = read_stream(
                streams[0], document_url=document.url, bidirectional=True, insecure_ok=self._exchange.insecure_ok
            )
            for problem in problems:
                self._report(call, problem)
            if order is not None:
                await self._stream(call, order)
        action = verb.attributes.get("action", "")
        if not action:
            return None
        return Source(url=resolve(document.url, action), method=verb.attributes.get("method", "POST"))

    async def _stream(self, call: CallRecord, order: StreamOrder) -> None:
        await asyncio.sleep(self._exchange.timings.stream_connect_ms / 1000)
        stream = await self._open(call, order, {"inbound": call.mouth}, bidirectional=True)
        if stream is not None:
            await self._follow(call, stream, order)

    async def _open(
        self,
        call: CallRecord,
        order: StreamOrder,
        sources: dict[str, AudioSource],
        *,
        bidirectional: bool,
        sid: str = "",
    ) -> StreamRecord | None:
        exchange = self._exchange
        # The signature is over the URL of the TwiML, as wss: that is what the world sees.
        signed = "wss://" + order.url.split("://", 1)[1]
        headers = handshake_headers(order.url, None) + exchange.webhooks.signature_headers(signed, [])
        sid = sid or make_sid("MZ")
        exchange.note("stream", sid=call.sid, text="connecting", url=order.url, stream_sid=sid)
        if exchange.faults.take("socket_refused"):
            wire: TextWire | ConnectFailure = ConnectFailure(31902, f"nobody listens at {order.url}")
        elif exchange.faults.take("handshake_403"):
            wire = ConnectFailure(31920, f"expected 101 from {order.url}; it answered 403", 403)
        else:
            wire = await exchange.network.connect(order.url, headers)
        if isinstance(wire, ConnectFailure):
            exchange.note("error", sid=call.sid, code=wire.code, text=wire.message, http_status=wire.http_status)
            await self._stream_event(call, sid, order, "stream-error", str(wire.code))
            return None
        told: set[int] = set()

        def warn(code: int, text: str) -> None:
            if code not in told:  # of 31930 the line knows only once the app reads again
                told.add(code)
                exchange.note("warning", sid=call.sid, code=code, text=text)

        def congested(seconds: float) -> None:
            warn(31930, f"the app has not read for {seconds:.1f} s; caller audio is discarded until it does")

        line = MediaLine(
            WatchedWire(wire, exchange.faults.line.congestion_ms / 1000, congested),
            stream_sid=sid,
            call_sid=call.sid,
            account_sid=exchange.account_sid,
            parameters={**order.parameters, **exchange.faults.extra_parameters},
            sources=sources,
            heard=call.heard,
            bidirectional=bidirectional,
            faults=exchange.faults.line,
            first_media_ms=exchange.timings.first_media_ms,
            first_timestamp_ms=exchange.timings.first_timestamp_ms,
            on_warning=warn,
        )
        stream = StreamRecord(
            sid=sid,
            name=order.name or sid,
            url=order.url,
            line=line,
            parameters=order.parameters,
            bidirectional=bidirectional,
        )
        call.streams.append(stream)
        return stream

    async def _follow(self, call: CallRecord, stream: StreamRecord, order: StreamOrder) -> None:
        exchange = self._exchange
        started = exchange.spawn(self._when_started(call, stream, order))
        try:
            stream.ended = await stream.line.run()
        finally:
            started.cancel()
            stream.ended = stream.ended or LineEnd.DROPPED
            stream.close_code = stream.line.close_code
            exchange.note(
                "stream",
                sid=call.sid,
                text=f"ended: {stream.ended}",
                stream_sid=stream.sid,
                frames_sent=stream.line.frames_sent,
                messages_received=stream.line.messages_received,
                close_code=stream.close_code,
            )
        if stream.ended is LineEnd.APP_CLOSED:
            text = f"the server closed the stream's socket with code {stream.close_code}"
            exchange.note("error", sid=call.sid, code=31921, text=text)
        elif stream.ended is LineEnd.DROPPED:
            exchange.note("error", sid=call.sid, code=31903, text="the stream's connection broke")
        exchange.spawn(self._stream_event(call, stream.sid, order, "stream-stopped"))

    async def _when_started(self, call: CallRecord, stream: StreamRecord, order: StreamOrder) -> None:
        await stream.line.started.wait()
        self._exchange.note("stream", sid=call.sid, text="started", stream_sid=stream.sid)
        self._exchange.spawn(self._stream_event(call, stream.sid, order, "stream-started"))
        await stream.line.flowing.wait()
        if stream.bidirectional and not call.streaming.is_set():
            call.streaming.set()
            self._exchange.on_streaming(call)

    async def _stream_event(
        self, call: CallRecord, sid: str, order: StreamOrder, event: str, error: str = ""
    ) -> None:
        if not order.status_callback:
            return
        form = [
            ("AccountSid", self._exchange.account_sid),
            ("CallSid", call.sid),
            ("StreamSid", sid),
            ("StreamName", order.name or sid),
            ("StreamEvent", event),
            ("Timestamp", _iso_nanoseconds(self._exchange.now())),
        ]
        if error:
            form.append(("StreamError", error))
        await self._exchange.webhooks.callback(
            order.status_callback, form, method=order.status_callback_method, sid=call.sid
        )

    # -- forks --------------------------------------------------------------------------------------------------

    async def _start(self, call: CallRecord, document: _Document, verb: Verb) -> None:
        for child in verb.children:
            if child.name == "Recording":
                self._start_recording(call, child)
                continue
            if child.name != "Stream":
                raise NotImplementedError(
                    f"The fake Twilio cannot execute <Start><{child.name}> (call {call.sid}); it knows <Stream> and "
                    f"<Recording>."
                )
            order, problems = read_stream(
                child, document_url=document.url, bidirectional=False, insecure_ok=self._exchange.insecure_ok
            )
            for problem in problems:
                self._report(call, problem)
            if order is not None:
                self.start_fork(call, order)

    def _start_recording(self, call: CallRecord, recording: Verb) -> None:
        """https://www.twilio.com/docs/voice/twiml/recording. The URL of the callback has to be absolute."""
        given = {_RECORDING[name]: value for name, value in recording.attributes.items() if name in _RECORDING}
        try:
            order = read_order(list({"RecordingChannels": "dual", **given}.items()), trim="trim-silence")
        except RestRefusedError as error:
            self._report(call, Problem(12200, f"<Recording> is skipped: {error.message}"))
            return
        name = recording.attributes.get("name", "")
        self._recordings.start(call, order, "StartCallRecordingTwiML", name)

    def start_fork(self, call: CallRecord, order: StreamOrder) -> str:
        """Begin a unidirectional stream in the background of the call; returns its sid."""
        sources: dict[str, AudioSource] = {}
        if order.track in ("inbound_track", "both_tracks"):
            sources["inbound"] = call.mouth
        if order.track in ("outbound_track", "both_tracks"):
            sources["outbound"] = Ear(call.heard)
        sid = make_sid("MZ")
        call.forks.append(self._exchange.spawn(self._fork(call, order, sources, sid)))
        return sid

    async def _fork(self, call: CallRecord, order: StreamOrder, sources: dict[str, AudioSource], sid: str) -> None:
        await asyncio.sleep(self._exchange.timings.stream_connect_ms / 1000)
        stream = await self._open(call, order, sources, bidirectional=False, sid=sid)
        if stream is not None:
            await self._follow(call, stream, order)

    def stop_fork(self, call: CallRecord, name: str) -> StreamRecord | None:
        """Stop a unidirectional stream by its name or sid; None when there is none of it."""
        for stream in call.streams:
            if not stream.bidirectional and name in (stream.name, stream.sid):
                stream.line.stop()
                return stream
        return None

    async def stop_forks(self, call: CallRecord) -> None:
        """The call is over: so are its forks."""
        for stream in call.streams:
            stream.line.stop()
        if call.forks:
            _, late = await asyncio.wait(call.forks, timeout=1)
            for task in late:
                task.cancel()


def _iso_nanoseconds(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"
