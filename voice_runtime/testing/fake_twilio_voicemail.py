"""``<Record>``: a beep, then what the far end says is kept, until it falls silent, presses a key or hangs up.

https://www.twilio.com/docs/voice/twiml/record
"""

from __future__ import annotations

import asyncio

from ..transports.mock_audio import FRAME_S, SAMPLES_PER_SECOND
from .fake_twilio_exchange import Exchange
from .fake_twilio_recordings import RecordingEngine, read_order
from .fake_twilio_records import CallRecord, RecordingRecord
from .fake_twilio_resources import RestRefusedError
from .fake_twilio_sound import Clip, beep, now_samples
from .fake_twilio_twiml import Problem, Verb, resolve
from .fake_twilio_webhooks import Form

__all__ = ["Voicemail"]

_BEEP_MS = 500
_ZEROS = b"\xff\x7f"  # μ-law has two
_CALLBACK = {
    "recordingStatusCallback": "RecordingStatusCallback",
    "recordingStatusCallbackMethod": "RecordingStatusCallbackMethod",
    "recordingStatusCallbackEvent": "RecordingStatusCallbackEvent",
    "trim": "Trim",
}


class Voicemail:
    """One ``<Record>``. Belongs to the fake's loop."""

    def __init__(
        self, exchange: Exchange, recordings: RecordingEngine, call: CallRecord, verb: Verb, base_url: str
    ) -> None:
        self._exchange = exchange
        self._recordings = recordings
        self._call = call
        self._verb = verb
        self._base_url = base_url
        self._recording: RecordingRecord | None = None
        self._digits = ""

    async def run(self) -> Form:
        """Record; returns the parameters of the action, none when nothing but silence came."""
        call = self._call
        if self._verb.attributes.get("playBeep", "true") != "false":
            with self._exchange.switchboard.playing(Clip(now_samples(), beep(_BEEP_MS)), call):
                await asyncio.sleep(_BEEP_MS / 1000)
        given = {_CALLBACK[name]: value for name, value in self._verb.attributes.items() if name in _CALLBACK}
        if "RecordingStatusCallback" in given:
            given["RecordingStatusCallback"] = resolve(self._base_url, given["RecordingStatusCallback"])
        try:
            order = read_order([("RecordingTrack", "inbound"), *given.items()], trim="trim-silence")
        except RestRefusedError as error:
            self._exchange.report(call, Problem(12200, f"an attribute of <Record> is ignored: {error.message}"))
            order = read_order([("RecordingTrack", "inbound")], trim="trim-silence")
        self._recording = self._recordings.start(call, order, "RecordVerb")
        self._exchange.awake(call)
        self._digits = await self._until_done()
        self._recordings.change(self._recording, "stopped")
        return self.facts()

    async def _until_done(self) -> str:
        """The key that ended it, or nothing."""
        key = asyncio.get_running_loop().create_task(self._finishing_key())
        quiet = asyncio.get_running_loop().create_task(self._silence())
        longest_s = max(1.0, self._exchange.number(self._call, self._verb, "maxLength", 3600))
        try:
            await asyncio.wait({key, quiet}, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
            return key.result() if key.done() else ""
        finally:
            key.cancel()
            quiet.cancel()

    async def _finishing_key(self) -> str:
        finish = self._verb.attributes.get("finishOnKey", "1234567890*#")
        while (digit := await self._call.keys_pressed.get()) not in finish:
            pass
        return digit

    async def _silence(self) -> None:
        """Wait until nothing has been said for so long."""
        limit = round(self._exchange.number(self._call, self._verb, "timeout", 5) * SAMPLES_PER_SECOND)
        looked = last = now_samples()
        while looked - last < limit:
            await asyncio.sleep(FRAME_S)
            begin, looked = looked, now_samples()
            for piece in self._call.mouth.pieces(begin, looked):
                if said := piece.ulaw.rstrip(_ZEROS):
                    last = piece.at + len(said)

    def facts(self) -> Form:
        """What the action is told; of a caller who hung up after :meth:`run` was cancelled."""
        recording = self._recording
        if recording is None or not recording.inbound:
            return []
        digits = self._digits or ("" if self._call.alive else "hangup")
        return [
            ("RecordingUrl", self._recordings.url(recording)),
            ("RecordingSid", recording.sid),
            ("RecordingDuration", str(recording.duration_s)),
            ("Digits", digits),
        ]
