"""Executes TwiML for a call, verb by verb, as https://www.twilio.com/docs/voice/twiml describes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .fake_twilio_conference import ConferenceDialling, Conferences
from .fake_twilio_dial import Dialling, Legs, PhoneDialling
from .fake_twilio_documents import Document, Documents
from .fake_twilio_exchange import Exchange, sleep_until
from .fake_twilio_prompts import Prompter
from .fake_twilio_queue import Enqueued, QueueDialling, Queues
from .fake_twilio_recordings import RecordingEngine, read_order
from .fake_twilio_records import CallRecord, Source
from .fake_twilio_resources import RestRefusedError
from .fake_twilio_streams import StreamEngine
from .fake_twilio_twiml import Problem, Verb, read_stream, resolve
from .fake_twilio_voicemail import Voicemail
from .fake_twilio_webhooks import Form

__all__ = ["Interpreter"]

_RECORDING = {  # attribute -> the REST API's parameter
    "channels": "RecordingChannels",
    "track": "RecordingTrack",
    "trim": "Trim",
    "recordingStatusCallback": "RecordingStatusCallback",
    "recordingStatusCallbackMethod": "RecordingStatusCallbackMethod",
    "recordingStatusCallbackEvent": "RecordingStatusCallbackEvent",
}
_RANG_FOR = {"busy": ("busy", 486), "failed": ("failed", 404)}
_LEAVE = Source(twiml="")


class _HangUp:
    """The document ends here, and with it the call."""


class Interpreter:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange, legs: Legs, recordings: RecordingEngine) -> None:
        self._exchange = exchange
        self._legs = legs
        self._recordings = recordings
        self._documents = Documents(exchange)
        self._prompter = Prompter(exchange)
        self.streams = StreamEngine(exchange)
        self.conferences = Conferences(exchange, self._entertain)
        self._queues = Queues(exchange, self._entertain, self._whisper)

    async def execute(self, call: CallRecord, source: Source) -> Source | None:
        """Fetch a document and execute it. Returns what comes next; None: the end of the call."""
        document = await self._documents.get(call, source)
        if document is None:
            self._legs.answer(call)
            await asyncio.sleep(self._exchange.timings.error_prompt_ms / 1000)
            return None
        for index, verb in enumerate(document.verbs):
            if verb.name == "Reject" and index == 0 and call.direction == "inbound" and call.start_at is None:
                self._exchange.note("verb", sid=call.sid, text=verb.name)
                self._reject(call, verb)
                return None
            if not _leaves_it_ringing(verb, index):
                self._legs.answer(call)
            self._exchange.note("verb", sid=call.sid, text=verb.name)
            result = await self._verb(call, document, verb)
            if call.interrupted.is_set() or result is _HangUp:
                return None
            if isinstance(result, Source):
                return result
        if call.start_at is None and call.rang_for:  # it was to be answered with somebody who did not come
            self._legs.end(call, *_RANG_FOR.get(call.rang_for, ("no-answer", 487)))
        else:
            self._legs.answer(call)
        return None

    # -- verbs --------------------------------------------------------------------------------------------------

    async def _verb(self, call: CallRecord, document: Document, verb: Verb) -> Source | type[_HangUp] | None:
        match verb.name:
            case "Say":
                await self._prompter.say(call, verb)
            case "Play":
                await self._prompter.play(call, document.url, verb)
            case "Pause":
                await asyncio.sleep(self._exchange.number(call, verb, "length", 1))
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
                        self.streams.stop_fork(call, name)
            case "Dial":
                return await self._dial(call, document, verb)
            case "Gather":
                return await self._gather(call, document, verb)
            case "Record":
                return await self._record(call, document, verb)
            case "Enqueue":
                return await self._enqueue(call, document, verb)
            case "Leave":
                return _LEAVE
            case "Redirect":
                url = resolve(document.url, verb.text) or document.url
                return Source(url=url, method=verb.attributes.get("method", "POST"))
            case "Hangup" | "Reject":
                self._legs.end(call)  # at once: the end of a whisper would join the callee instead
                return _HangUp
            case _:
                raise NotImplementedError(
                    f"The fake Twilio cannot execute <{verb.name}> (call {call.sid}). It knows Say, Play, Pause, "
                    f"Gather of keys, Dial, Record, Enqueue, Leave, Connect/Stream, Start and Stop of Stream and "
                    f"Recording, Redirect, Reject and Hangup."
                )
        return None

    def _reject(self, call: CallRecord, verb: Verb) -> None:
        if verb.attributes.get("reason") == "busy":
            self._legs.end(call, "busy", 486)
        else:
            self._legs.end(call, "no-answer", 603)

    def _action(self, document: Document, verb: Verb, form: Form) -> Source | None:
        """The document that a verb asks for when it is done; None: the next verb."""
        url = resolve(document.url, verb.attributes.get("action", ""))
        return Source(url=url, method=verb.attributes.get("method", "POST"), extra=form) if url else None

    # -- other parties ------------------------------------------------------------------------------------------

    async def _dial(self, call: CallRecord, document: Document, verb: Verb) -> Source | type[_HangUp] | None:
        dialling = self._dialling(call, document, verb)
        try:
            outcome = await dialling.run()
        except asyncio.CancelledError:
            await self._wind_down(call, document, verb, dialling)
            raise
        finally:
            dialling.stop()
        call.rang_for = dict(outcome)["DialCallStatus"]
        return self._action(document, verb, outcome)

    def _dialling(self, call: CallRecord, document: Document, verb: Verb) -> Dialling:
        exchange, url = self._exchange, document.url
        for child in verb.children:
            if child.name == "Conference":
                on_star = verb.attributes.get("hangupOnStar") == "true"
                return ConferenceDialling(exchange, self.conferences, call, child, url, on_star)
            if child.name == "Queue":
                timeout_s = exchange.number(call, verb, "timeout", 30)
                return QueueDialling(exchange, self._queues, call, child, url, timeout_s)
        return PhoneDialling(exchange, self._legs, call, verb, url)

    async def _wind_down(self, call: CallRecord, document: Document, verb: Verb, dialling: Dialling) -> None:
        """The caller has hung up or is redirected.

        The action is still told, before what interrupts the dialling comes to run; its answer is not used.
        """
        timings, redirected = self._exchange.timings, call.alive
        began_s = asyncio.get_running_loop().time()
        if redirected:
            await asyncio.sleep(timings.dial_interrupted_leg_ms / 1000)
        dialling.stop()
        form = dialling.facts()
        if redirected:
            form = [("DialCallStatus", "completed"), *(field for field in form if field[0] != "DialCallStatus")]
            await sleep_until(began_s + timings.dial_interrupted_action_ms / 1000)
        if action := self._action(document, verb, form):
            await self._documents.tell(call, action.url, action.method, form)
            if redirected:
                await sleep_until(began_s + timings.dial_interrupted_target_ms / 1000)

    async def _enqueue(self, call: CallRecord, document: Document, verb: Verb) -> Source | None:
        enqueued = Enqueued(self._exchange, self._queues, call, verb, document.url)
        try:
            form = await enqueued.run()
        except asyncio.CancelledError:
            form = enqueued.facts()
            if action := self._action(document, verb, form):
                await self._documents.tell(call, action.url, action.method, form)
            raise
        return self._action(document, verb, form)

    async def _entertain(self, call: CallRecord, url: str, method: str, facts: Callable[[], Form]) -> None:
        """Somebody waits: execute a document again and again, until it says ``<Leave>``."""
        while url:
            source = Source(url=url, method=method, extra=facts())
            while source.url:
                document = await self._documents.get(call, source)
                if document is None:
                    break
                following = Source()
                for verb in document.verbs:
                    self._exchange.note("verb", sid=call.sid, text=verb.name)
                    result = await self._verb(call, document, verb)
                    if result is _LEAVE:
                        return
                    if isinstance(result, Source):
                        following = result
                        break
                source = following
            if document is None:
                break
        await asyncio.Event().wait()  # in silence

    async def _whisper(self, call: CallRecord, url: str, method: str, form: Form) -> None:
        """Somebody hears a document before being joined with others."""
        document = await self._documents.get(call, Source(url=url, method=method, extra=form))
        if document is not None:
            for verb in document.verbs:
                if await self._verb(call, document, verb) is not None:
                    return

    async def _record(self, call: CallRecord, document: Document, verb: Verb) -> Source | None:
        voicemail = Voicemail(self._exchange, self._recordings, call, verb, document.url)
        url = resolve(document.url, verb.attributes.get("action", "")) or document.url
        method = verb.attributes.get("method", "POST")
        try:
            form = await voicemail.run()
        except asyncio.CancelledError:
            if not call.alive and (form := voicemail.facts()) and url:
                await self._documents.tell(call, url, method, form)
            raise
        return Source(url=url, method=method, extra=form) if form and url else None

    # -- keys ---------------------------------------------------------------------------------------------------

    async def _gather(self, call: CallRecord, document: Document, verb: Verb) -> Source | None:
        count = int(self._exchange.number(call, verb, "numDigits", 0))
        timeout_s = self._exchange.number(call, verb, "timeout", 5)
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

    async def _prompt(self, call: CallRecord, document: Document, verb: Verb) -> None:
        for child in verb.children:
            if child.name in ("Say", "Play", "Pause"):
                await self._verb(call, document, child)

    # -- streams and recordings ---------------------------------------------------------------------------------

    async def _connect(self, call: CallRecord, document: Document, verb: Verb) -> Source | None:
        streams = [child for child in verb.children if child.name == "Stream"]
        if not streams:
            names = ", ".join(f"<{child.name}>" for child in verb.children) or "nothing"
            problem = Problem(12200, f"expected a <Stream> in <Connect>; {names} came")
            self._exchange.report(call, problem)
        else:
            if len(streams) > 1:
                self._exchange.report(
                    call, Problem(12200, "a call has one bidirectional <Stream>; the others are skipped")
                )
            order, problems = read_stream(
                streams[0], document_url=document.url, bidirectional=True, insecure_ok=self._exchange.insecure_ok
            )
            for problem in problems:
                self._exchange.report(call, problem)
            if order is not None:
                await self.streams.connect(call, order)
        action = verb.attributes.get("action", "")
        if not action:
            return None
        return Source(url=resolve(document.url, action), method=verb.attributes.get("method", "POST"))

    async def _start(self, call: CallRecord, document: Document, verb: Verb) -> None:
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
                self._exchange.report(call, problem)
            if order is not None:
                self.streams.start_fork(call, order)

    def _start_recording(self, call: CallRecord, recording: Verb) -> None:
        """https://www.twilio.com/docs/voice/twiml/recording. The URL of the callback has to be absolute."""
        given = {_RECORDING[name]: value for name, value in recording.attributes.items() if name in _RECORDING}
        try:
            order = read_order(list({"RecordingChannels": "dual", **given}.items()), trim="trim-silence")
        except RestRefusedError as error:
            self._exchange.report(call, Problem(12200, f"<Recording> is skipped: {error.message}"))
            return
        name = recording.attributes.get("name", "")
        self._recordings.start(call, order, "StartCallRecordingTwiML", name)


def _leaves_it_ringing(verb: Verb, index: int) -> bool:
    """An inbound call is not answered by a pause that comes first, nor before somebody answers ``answerOnBridge``."""
    if verb.name == "Pause":
        return index == 0
    return verb.name == "Dial" and verb.attributes.get("answerOnBridge") == "true"
