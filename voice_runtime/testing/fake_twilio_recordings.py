"""Recordings of calls: both tracks on the call's time, paused and resumed, made into WAV, and the callbacks.

Written is what the far end says, whether or not anybody listens, and what it hears. ``<Say>`` has no sound here and
is silence.

https://www.twilio.com/docs/voice/api/recording
"""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Sequence
from functools import partial
from typing import Literal, cast

from ..audio.g711 import ulaw_to_pcm16
from ..audio.mixer import mix_frames
from ..transports.mock_audio import SAMPLES_PER_SECOND, Ear
from ..transports.mock_wire import make_sid
from .fake_twilio_exchange import API_VERSION, Exchange, rfc2822
from .fake_twilio_records import CallRecord, RecordingOrder, RecordingRecord
from .fake_twilio_resources import RestRefusedError
from .fake_twilio_webhooks import Form, WebhookFailure

__all__ = ["RecordingEngine", "one_of", "read_order", "recording_wav"]

_SILENCE = b"\xff"
_ZEROS = b"\xff\x7f"  # μ-law has two
_EVENTS = frozenset({"in-progress", "completed", "absent"})
_TOO_SHORT = 16101  # https://www.twilio.com/docs/api/errors/16101


def recording_wav(recording: RecordingRecord, channels: int) -> bytes:
    """The audio as a WAV file: PCM of 16 bits at 8,000 Hz, which is 128 kbit/s a channel.

    Two channels hold the inbound track on the left and the outbound track on the right.
    """
    inbound, outbound = bytes(recording.inbound), bytes(recording.outbound)
    if channels == 2:
        frames = bytearray(4 * len(inbound))
        for place, track in enumerate((ulaw_to_pcm16(inbound), ulaw_to_pcm16(outbound))):
            frames[2 * place :: 4] = track[::2]
            frames[2 * place + 1 :: 4] = track[1::2]
    else:
        mono = {"inbound": inbound, "outbound": outbound}.get(recording.order.track)
        frames = bytearray(ulaw_to_pcm16(mix_frames(inbound, outbound) if mono is None else mono))
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(SAMPLES_PER_SECOND)
        sound.writeframes(frames)
    return file.getvalue()


def read_order(form: Sequence[tuple[str, str]], *, trim: str = "do-not-trim") -> RecordingOrder:
    """What a request asks of a recording. ``trim`` is the default.

    Raises:
        RestRefusedError: 20001 for a word that is not one of those expected, 21209 for another method.
    """
    given = dict(form)
    channels = one_of(given, "RecordingChannels", ("mono", "dual"))
    track = one_of(given, "RecordingTrack", ("both", "inbound", "outbound"))
    trimmed = one_of({"Trim": trim, **given}, "Trim", ("do-not-trim", "trim-silence"))
    method = given.get("RecordingStatusCallbackMethod", "POST").upper()
    if method not in ("GET", "POST"):
        raise RestRefusedError(21209, method)
    # Repeated, or with spaces in between: both are documented.
    words = [word for name, value in form if name == "RecordingStatusCallbackEvent" for word in value.split()]
    return RecordingOrder(
        # One track alone is always mono: https://www.twilio.com/docs/voice/tutorials/how-record-single-side-call
        channels=2 if channels == "dual" and track == "both" else 1,
        track=cast(Literal["inbound", "outbound", "both"], track),
        trim=trimmed == "trim-silence",
        callback_url=given.get("RecordingStatusCallback", ""),
        callback_method=method,
        callback_events=frozenset(words) & _EVENTS if words else frozenset({"completed"}),
    )


def one_of(given: dict[str, str], name: str, words: tuple[str, ...]) -> str:
    """One of these words, the first of which is the default.

    Raises:
        RestRefusedError: 20001 for another word.
    """
    word = given.get(name, words[0])
    if word not in words:
        raise RestRefusedError(20001, f"{name} is {' or '.join(words)}, not {word!r}")
    return word


class RecordingEngine:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def start(self, call: CallRecord, order: RecordingOrder, source: str, name: str = "") -> RecordingRecord:
        """Record a call that is in progress, from now on. A name is what ``<Stop>`` can stop it by."""
        now = self._exchange.now()
        recording = RecordingRecord(
            sid=make_sid("RE"),
            call=call,
            order=order,
            source=source,
            name=name,
            created_at=now,
            updated_at=now,
            position=_now_samples(),
        )
        recording.listener = partial(self._catch_up, recording)
        call.mouth.listeners.append(recording.listener)
        self._exchange.recordings[recording.sid] = recording
        self._note(recording)
        self._tell(recording, "in-progress")
        return recording

    def active(self, call: CallRecord) -> list[RecordingRecord]:
        """The recordings of a call that are being written or paused, in order."""
        return [one for one in self._exchange.recordings.values() if one.call is call and one.active]

    def change(
        self, recording: RecordingRecord, status: Literal["in-progress", "paused", "stopped"], *, skips: bool = False
    ) -> None:
        """Pause, resume or stop an active recording. ``skips``: the pause is left out instead of being silence."""
        self._catch_up(recording)
        if status == "stopped":
            self._stop(recording)
            return
        recording.status = status
        recording.skips = skips
        recording.updated_at = self._exchange.now()
        self._note(recording)

    def stop_named(self, call: CallRecord, name: str) -> None:
        """``<Stop>``: stop the active recordings of this name."""
        for recording in self.active(call):
            if name and recording.name == name:
                self.change(recording, "stopped")

    def finish(self, call: CallRecord) -> None:
        """The call is over: so are its recordings."""
        for recording in self.active(call):
            self._catch_up(recording)
            self._stop(recording)

    def delete(self, recording: RecordingRecord) -> None:
        """The audio is gone for ever; the facts stay."""
        recording.status = "deleted"
        recording.updated_at = self._exchange.now()
        self._note(recording)

    def url(self, recording: RecordingRecord) -> str:
        """Where the audio is; ``.wav`` may be added."""
        exchange = self._exchange
        return f"{exchange.api_base_url}/{API_VERSION}/Accounts/{exchange.account_sid}/Recordings/{recording.sid}"

    def facts_for_callback(self, call: CallRecord) -> Form:
        """What the last callback of a call that was made with ``Record`` says about its recording."""
        for recording in self._exchange.recordings.values():
            if recording.call is call and recording.source == "OutboundAPI" and recording.inbound:
                return [
                    ("RecordingUrl", self.url(recording)),
                    ("RecordingSid", recording.sid),
                    ("RecordingDuration", str(recording.duration_s)),
                ]
        return []

    # -- audio --------------------------------------------------------------------------------------------------

    def _catch_up(self, recording: RecordingRecord) -> None:
        """Write what was said and heard up to now."""
        call, begin = recording.call, recording.position
        recording.position = max(begin, _now_samples())
        count = recording.position - begin
        if recording.status == "paused":
            if not recording.skips:
                recording.inbound += _SILENCE * count
                recording.outbound += _SILENCE * count
            return
        call.sync()
        recording.inbound += call.mouth.read(begin, count) or _SILENCE * count
        recording.outbound += Ear(call.heard).read(begin, count) or _SILENCE * count

    def _stop(self, recording: RecordingRecord) -> None:
        recording.status = "stopped"
        recording.updated_at = self._exchange.now()
        if recording.listener is not None:
            recording.call.mouth.listeners.remove(recording.listener)
            recording.listener = None
        if recording.order.trim:
            _trim(recording)
        self._note(recording)
        self._exchange.spawn(self._process(recording))

    async def _process(self, recording: RecordingRecord) -> None:
        await asyncio.sleep(self._exchange.timings.recording_processing_ms / 1000)
        recording.status = "completed" if recording.inbound else "absent"
        recording.error_code = None if recording.inbound else _TOO_SHORT
        recording.updated_at = self._exchange.now()
        self._note(recording)
        self._tell(recording, recording.status)

    # -- callbacks ----------------------------------------------------------------------------------------------

    def _note(self, recording: RecordingRecord) -> None:
        self._exchange.note("recording", sid=recording.call.sid, text=recording.status, recording_sid=recording.sid)

    def _tell(self, recording: RecordingRecord, status: str) -> None:
        order = recording.order
        if not order.callback_url or status not in order.callback_events:
            return
        form = [
            ("AccountSid", self._exchange.account_sid),
            ("CallSid", recording.call.sid),
            ("RecordingSid", recording.sid),
            ("RecordingUrl", self.url(recording)),
            ("RecordingStatus", status),
            ("RecordingChannels", str(order.channels)),
            ("RecordingStartTime", rfc2822(recording.created_at)),
            ("RecordingSource", recording.source),
            ("RecordingTrack", order.track),
            ("ErrorCode", str(recording.error_code or 0)),
        ]
        if status == "completed":
            form.append(("RecordingDuration", str(recording.duration_s)))
        self._exchange.spawn(self._send(recording, form))

    async def _send(self, recording: RecordingRecord, form: Form) -> None:
        exchange, order, sid = self._exchange, recording.order, recording.call.sid
        if exchange.faults.drop_callbacks:
            return
        await asyncio.sleep((exchange.timings.callback_ms + exchange.faults.callback_delay_ms) / 1000)
        for _ in range(2 if exchange.faults.duplicate_callbacks else 1):
            result = await exchange.webhooks.callback(order.callback_url, form, method=order.callback_method, sid=sid)
            if isinstance(result, WebhookFailure):
                exchange.note("warning", sid=sid, code=result.code, text=result.message)


def _now_samples() -> int:
    return round(asyncio.get_running_loop().time() * SAMPLES_PER_SECOND)


def _trim(recording: RecordingRecord) -> None:
    """Take away the silence before the first and after the last sound of either track."""
    tracks = [recording.inbound, recording.outbound]
    if recording.order.track != "both":
        tracks = [getattr(recording, recording.order.track)]
    begin = min(len(track) - len(track.lstrip(_ZEROS)) for track in tracks)
    end = max(len(track.rstrip(_ZEROS)) for track in tracks)
    for track in (recording.inbound, recording.outbound):
        del track[max(begin, end) :], track[:begin]
