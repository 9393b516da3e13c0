"""Recordings that Twilio makes of a call: start, pause, resume and stop them; list, download and delete them.

::

    recording = start_recording(call_sid, status_callback="https://voice.example.com/recorded")
    recording.pause()                                  # while a card number is said
    recording.resume()
    ...
    audio = download_recording(recording.recording_sid)     # once the callback says "completed"

Whether the people on the line must be told, or asked, depends on where they are: say so before recording begins.
Functions that ask Twilio block for as long as it takes; call them from any thread but an event loop's.
https://www.twilio.com/docs/voice/api/recording
"""

from __future__ import annotations

import datetime
import email.utils
import importlib
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..exceptions import RestError
from . import twilio_rest
from .twilio_call import ALREADY_ENDED

if TYPE_CHECKING:
    from ..config import Settings

__all__ = [
    "CURRENT",
    "MAX_DOWNLOAD_BYTES",
    "RecordingHandle",
    "RecordingStatus",
    "RecordingSummary",
    "delete_recording",
    "download_recording",
    "list_recordings",
    "start_recording",
]

CURRENT = "Twilio.CURRENT"
"""Stands for the SID of the one recording that is being made of a call, however it was started."""

MAX_DOWNLOAD_BYTES = 512 * 2**20
"""Holds four hours, Twilio's longest call by default, in two channels: 461 MB."""

Channels = Literal["dual", "mono"]
Track = Literal["both", "inbound", "outbound"]

_CHANNELS = {"mono": "1", "dual": "2"}
_TRACKS = ("both", "inbound", "outbound")
_EVENTS = ("in-progress", "completed", "absent")


class RecordingHandle:
    """A recording that is being made. Threads may share it.

    ``RecordingHandle(call_sid)`` takes hold of a recording that something else has started, ``<Start><Recording>`` or
    ``record=True``; it must be the only one of its call.

    Args:
        recording_sid: ``RE...``.
        settings: instead of the environment's.
        region: where the call probably is; the others that are configured are asked after it.

    Raises:
        ValueError: a SID is none.
        ConfigurationError: the region is not configured.
    """

    def __init__(
        self,
        call_sid: str,
        recording_sid: str = CURRENT,
        *,
        settings: Settings | None = None,
        region: str | None = None,
    ) -> None:
        self.call_sid = twilio_rest.check_sid(call_sid)
        if recording_sid != CURRENT:
            twilio_rest.check_sid(recording_sid, "recording", "RE")
        self.recording_sid = recording_sid
        self._settings = _settings(settings).for_region(region)
        self._home: Settings | None = None

    def __repr__(self) -> str:
        return f"<RecordingHandle {self.recording_sid} of {self.call_sid}>"

    def pause(self, silence: bool = True) -> bool:
        """Record nothing until :meth:`resume`.

        Args:
            silence: the pause is silence in the recording, which keeps the call's time; False leaves it out.

        Returns:
            False when the recording is over.

        Raises:
            RestError: Twilio refused for another reason, or did not answer.
        """
        return self._change("Pausing the recording", status="paused", pause_behavior="silence" if silence else "skip")

    def resume(self) -> bool:
        """Go on recording. Returns and raises as :meth:`pause`."""
        return self._change("Resuming the recording", status="in-progress")

    def stop(self) -> bool:
        """End the recording for good; its audio can be had soon after. May be repeated.

        Returns:
            True when this ended it, False when it was over already.

        Raises:
            RestError: Twilio refused for another reason, or did not answer.
        """
        return self._change("Stopping the recording", status="stopped")

    def _change(self, purpose: str, **change: str) -> bool:
        def update(settings: Settings) -> bool:
            rest = twilio_rest.client(settings)
            with twilio_rest.translated(purpose):
                rest.calls(self.call_sid).recordings(self.recording_sid).update(**change)
            self._home = settings
            return True

        try:
            if self._home is not None:
                return update(self._home)
            return twilio_rest.first_region_that_knows(self._settings, update)
        except RestError as error:
            if (error.status, error.code) in ALREADY_ENDED:
                return False
            raise


class RecordingSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What Twilio knows of a recording.

    Attributes:
        status: ``processing`` until it is ``completed`` or ``absent``.
        channels: 1 or 2.
        duration_s: None until it is completed.
        source: what started it: ``StartCallRecordingAPI``, ``OutboundAPI``, ``DialVerb``, ``RecordVerb`` ...
        track: ``both``, ``inbound`` or ``outbound``.
        error_code: why it is absent.
        price: negative, in ``price_unit`` (ISO 4217); None until it is known.
    """

    recording_sid: str
    call_sid: str
    status: str
    channels: int | None
    duration_s: int | None
    started_at: datetime.datetime | None
    source: str
    track: str
    error_code: int | None
    price: Decimal | None
    price_unit: str | None


class RecordingStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A callback about a recording. https://www.twilio.com/docs/voice/api/recording#recordingstatuscallback

    Attributes:
        status: ``in-progress``, ``completed`` or ``absent`` (there is nothing on it).
        url: of the audio, which needs the account's credentials; :func:`download_recording` has them.
        duration_s: of what is ``completed``.
        error_code: why it is absent.
    """

    account_sid: str = ""
    call_sid: str = ""
    recording_sid: str = ""
    status: str = ""
    url: str = ""
    duration_s: int | None = None
    channels: int | None = None
    started_at: datetime.datetime | None = None
    source: str = ""
    track: str = ""
    error_code: int | None = None

    @classmethod
    def from_form(cls, fields: Mapping[str, str]) -> RecordingStatus:
        """From the callback's fields, one value each. What is missing or odd is empty or None."""

        def number(name: str) -> int | None:
            text = fields.get(name, "").strip()
            return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None

        return cls(
            account_sid=fields.get("AccountSid", ""),
            call_sid=fields.get("CallSid", ""),
            recording_sid=fields.get("RecordingSid", ""),
            status=fields.get("RecordingStatus", ""),
            url=fields.get("RecordingUrl", ""),
            duration_s=number("RecordingDuration"),
            channels=number("RecordingChannels"),
            started_at=_date(fields.get("RecordingStartTime", "")),
            source=fields.get("RecordingSource", ""),
            track=fields.get("RecordingTrack", ""),
            error_code=number("ErrorCode") or None,  # 0 where nothing went wrong
        )


def start_recording(
    call_sid: str,
    *,
    settings: Settings | None = None,
    channels: Channels = "dual",
    track: Track = "both",
    status_callback: str | None = None,
    trim: bool = False,
    region: str | None = None,
) -> RecordingHandle:
    """Record a call that is in progress, from now on until it ends or :meth:`RecordingHandle.stop`.

    Args:
        settings: instead of the environment's.
        channels: ``dual`` keeps what Twilio hears of the far end (left) apart from what it plays to it (right). One
            track alone is mono in any case.
        track: ``inbound`` is the far end's voice, ``outbound`` what it hears.
        status_callback: http(s) URL that is told when it is in progress, completed or absent;
            :meth:`RecordingStatus.from_form` reads it.
        trim: leave out silence at the beginning and the end. The recording then is not on the call's time.
        region: where the call probably is; the others that are configured are asked after it.

    Raises:
        ValueError: an argument is none of those expected.
        ConfigurationError: credentials are missing, or the region is not configured.
        RestError: the call is not in progress (21220), no region knows it, Twilio refused or did not answer.
    """
    twilio_rest.check_sid(call_sid)
    _one_of("channels", channels, _CHANNELS)
    _one_of("track", track, _TRACKS)
    order: dict[str, Any] = {
        "recording_channels": channels,
        "recording_track": track,
        "trim": "trim-silence" if trim else "do-not-trim",
    }
    if status_callback is not None:
        if not status_callback.startswith(("https://", "http://")):
            raise ValueError(f"status_callback is {status_callback[:80]!r}; expected a whole URL, https://...")
        order["recording_status_callback"] = status_callback
        order["recording_status_callback_method"] = "POST"
        order["recording_status_callback_event"] = list(_EVENTS)

    def start(settings: Settings) -> RecordingHandle:
        rest = twilio_rest.client(settings)
        with twilio_rest.translated("Starting the recording"):
            sid = rest.calls(call_sid).recordings.create(**order).sid
        if not isinstance(sid, str) or not sid:
            raise RestError("Starting the recording failed: Twilio's answer holds no SID.", maybe_done=True)
        handle = RecordingHandle(call_sid, sid, settings=settings)
        handle._home = settings
        return handle

    return twilio_rest.first_region_that_knows(_settings(settings), start, region=region)


def list_recordings(
    call_sid: str, *, settings: Settings | None = None, region: str | None = None
) -> list[RecordingSummary]:
    """Every recording of a call, the newest first: all of them, or an error.

    Args:
        settings: instead of the environment's.
        region: where the call probably is; the others that are configured are asked after it.

    Raises:
        ValueError: ``call_sid`` is none.
        ConfigurationError: credentials are missing, or the region is not configured.
        RestError: no region knows the call, or a page could not be had.
    """
    twilio_rest.check_sid(call_sid)

    def listed(settings: Settings) -> list[RecordingSummary]:
        recordings = twilio_rest.client(settings).calls(call_sid).recordings
        return twilio_rest.complete_list(
            "Listing the recordings", lambda: recordings.page(page_size=twilio_rest.PAGE_SIZE), _summary
        )

    return twilio_rest.first_region_that_knows(_settings(settings), listed, region=region)


def download_recording(
    recording_sid: str,
    *,
    channels: Channels | None = None,
    settings: Settings | None = None,
    region: str | None = None,
    max_bytes: int = MAX_DOWNLOAD_BYTES,
) -> bytes:
    """The audio of a completed recording as a WAV file: PCM of 16 bits at 8,000 Hz, 16 kB a second and channel.

    Args:
        channels: ``mono`` mixes the two of a dual recording. Default: as it was recorded.
        settings: instead of the environment's.
        region: where the recording probably is; the others that are configured are asked after it.
        max_bytes: what fits into your memory; more is an error.

    Raises:
        ValueError: an argument is none of those expected.
        ConfigurationError: credentials are missing, or the region is not configured.
        RestError: there is no such recording or it is not completed yet (404), it is larger than ``max_bytes``, it
            has no second channel (16113), Twilio refused or did not answer.
    """
    twilio_rest.check_sid(recording_sid, "recording", "RE")
    if channels is not None:
        _one_of("channels", channels, _CHANNELS)
    params = {"RequestedChannels": _CHANNELS[channels]} if channels is not None else {}
    purpose = f"Downloading the recording {recording_sid}"

    def fetch(settings: Settings) -> bytes:
        rest = twilio_rest.client(settings)
        path = f"/2010-04-01/Accounts/{rest.account_sid}/Recordings/{recording_sid}.wav"
        return twilio_rest.download(rest, purpose, path, max_bytes=max_bytes, params=params)

    try:
        content = twilio_rest.first_region_that_knows(_settings(settings), fetch, region=region)
    except RestError as error:
        if not twilio_rest.is_unknown(error):
            raise
        raise RestError(
            f"{error} (A recording can be had once its status is completed, some seconds after its end.)",
            status=error.status,
            code=error.code,
        ) from error
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise RestError(
            f"{purpose} failed: expected a WAV file; something else came, {len(content)} bytes. "
            "Twilio encrypts recordings where the account has a public key for it."
        )
    return content


def delete_recording(recording_sid: str, *, settings: Settings | None = None, region: str | None = None) -> bool:
    """Delete the audio of a recording for ever. May be repeated.

    Args:
        settings: instead of the environment's.
        region: where the recording probably is; the others that are configured are asked after it.

    Returns:
        False when there was none, or none any more.

    Raises:
        ValueError: ``recording_sid`` is none.
        ConfigurationError: credentials are missing, or the region is not configured.
        RestError: it is not completed (20009), Twilio refused or did not answer.
    """
    twilio_rest.check_sid(recording_sid, "recording", "RE")

    def delete(settings: Settings) -> bool:
        rest = twilio_rest.client(settings)
        with twilio_rest.translated("Deleting the recording", method="DELETE"):
            rest.recordings(recording_sid).delete()
        return True

    try:
        return twilio_rest.first_region_that_knows(_settings(settings), delete, region=region)
    except RestError as error:
        if twilio_rest.is_unknown(error):
            return False
        raise


def _settings(settings: Settings | None) -> Settings:
    if settings is not None:
        return settings
    loaded: Settings = importlib.import_module("voice_runtime.config").load()
    return loaded


def _summary(recording: Any) -> RecordingSummary:
    return RecordingSummary(
        recording_sid=recording.sid,
        call_sid=recording.call_sid or "",
        status=recording.status or "",
        channels=twilio_rest.read_whole(recording.channels),
        duration_s=twilio_rest.read_whole(recording.duration),
        started_at=recording.start_time,
        source=recording.source or "",
        track=recording.track or "",
        error_code=twilio_rest.read_whole(recording.error_code),
        price=twilio_rest.read_price(recording.price),
        price_unit=recording.price_unit or None,
    )


def _date(text: str) -> datetime.datetime | None:
    try:
        at = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    # "-0000" is UTC without a place.
    return at.replace(tzinfo=datetime.UTC) if at.tzinfo is None else at.astimezone(datetime.UTC)


def _one_of(name: str, word: str, words: Any) -> None:
    if word not in words:
        raise ValueError(f"{name} is {word!r}; expected one of {', '.join(words)}")
