"""The REST API of recordings, on the fake's loop.

https://www.twilio.com/docs/voice/api/recording: start, pause, resume and stop under the call; read, download and
delete there or under the account. While a recording is being made, only the answers to changes tell its precise
status; whoever reads it sees ``processing`` until it is ``completed`` or ``absent``.
"""

from __future__ import annotations

import re
from typing import Any, Literal, cast

from .fake_twilio_exchange import Exchange
from .fake_twilio_recordings import RecordingEngine, one_of, read_order, recording_wav
from .fake_twilio_records import CallRecord, RecordingRecord
from .fake_twilio_requests import RestAnswer, RestRequest, Route, in_range
from .fake_twilio_resources import RestRefusedError, page_json, recording_json

__all__ = ["RecordingsApi"]

_CURRENT = "Twilio.CURRENT"


class RecordingsApi:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange, recordings: RecordingEngine) -> None:
        self._exchange = exchange
        self._recordings = recordings
        part = r"([^/]+)"
        self.routes: list[Route] = [
            ("POST", rf"/Calls/{part}/Recordings\.json", self._create),
            ("GET", rf"/Calls/{part}/Recordings\.json", self._list_of_call),
            ("POST", rf"/Calls/{part}/Recordings/{part}\.json", self._update),
            ("GET", rf"/Calls/{part}/Recordings/{part}\.json", self._fetch_of_call),
            ("DELETE", rf"/Calls/{part}/Recordings/{part}\.json", self._delete_of_call),
            ("GET", r"/Recordings\.json", self._list),
            ("GET", rf"/Recordings/{part}\.json", self._fetch),
            ("DELETE", rf"/Recordings/{part}\.json", self._delete),
            ("GET", r"/Recordings/([^/.]+)(?:\.wav)?", self._download),
        ]
        """Their patterns do not overlap."""

    # -- of a call ----------------------------------------------------------------------------------------------

    def _call(self, request: RestRequest, sid: str) -> CallRecord:
        call = self._exchange.calls.get(sid)
        if call is None:
            raise RestRefusedError(20404, request.path)
        return call

    def _of_call(self, request: RestRequest, parts: tuple[str, ...]) -> RecordingRecord:
        call, sid = self._call(request, parts[0]), parts[1]
        if sid == _CURRENT:
            active = self._recordings.active(call)
            if len(active) > 1:
                raise RestRefusedError(20001, f"{_CURRENT} needs a single recording; the call has {len(active)}")
            sid = active[0].sid if active else ""
        recording = self._find(request, sid)
        if recording.call is not call:
            raise RestRefusedError(20404, request.path)
        return recording

    def _create(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        call = self._call(request, parts[0])
        if call.status != "in-progress":
            raise RestRefusedError(21220, "Cannot record.")
        recording = self._recordings.start(call, read_order(request.form), "StartCallRecordingAPI")
        return RestAnswer(201, recording_json(recording, self._exchange.account_sid, status=recording.status))

    def _update(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        recording, form = self._of_call(request, parts), dict(request.form)
        status = form.get("Status", "")
        if status not in ("in-progress", "paused", "stopped"):
            raise RestRefusedError(20001, f"Status is in-progress, paused or stopped, not {status!r}")
        behavior = one_of(form, "PauseBehavior", ("silence", "skip"))
        if not recording.active:
            raise RestRefusedError(21220, f"The recording is {_status(recording)}.")
        self._recordings.change(
            recording, cast(Literal["in-progress", "paused", "stopped"], status), skips=behavior == "skip"
        )
        return RestAnswer(200, recording_json(recording, self._exchange.account_sid, status=recording.status))

    def _list_of_call(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        call = self._call(request, parts[0])
        items = [self._json_of_call(one) for one in self._select(request) if one.call is call]
        return RestAnswer(200, page_json("recordings", items, request.path, request.query))

    def _fetch_of_call(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return RestAnswer(200, self._json_of_call(self._of_call(request, parts)))

    def _delete_of_call(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return self._remove(self._of_call(request, parts))

    def _json_of_call(self, recording: RecordingRecord) -> dict[str, Any]:
        return recording_json(recording, self._exchange.account_sid, status=_status(recording))

    # -- of the account -----------------------------------------------------------------------------------------

    def _find(self, request: RestRequest, sid: str) -> RecordingRecord:
        recording = self._exchange.recordings.get(sid)
        if recording is None or (recording.status == "deleted" and not _deleted_too(request)):
            raise RestRefusedError(20404, request.path)
        return recording

    def _select(self, request: RestRequest) -> list[RecordingRecord]:
        """The newest first."""
        query = dict(request.query)
        return [
            recording
            for recording in reversed(self._exchange.recordings.values())
            if (recording.status != "deleted" or _deleted_too(request))
            and query.get("CallSid", recording.call.sid) == recording.call.sid
            and not query.get("ConferenceSid")
            and in_range(query, "DateCreated", recording.created_at)
        ]

    def _json(self, recording: RecordingRecord) -> dict[str, Any]:
        url = self._recordings.url(recording)
        return recording_json(recording, self._exchange.account_sid, status=_status(recording), media_url=url)

    def _list(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        items = [self._json(recording) for recording in self._select(request)]
        return RestAnswer(200, page_json("recordings", items, request.path, request.query))

    def _fetch(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return RestAnswer(200, self._json(self._find(request, parts[0])))

    def _delete(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return self._remove(self._find(request, parts[0]))

    def _remove(self, recording: RecordingRecord) -> RestAnswer:
        if recording.status != "completed":
            raise RestRefusedError(20009, "recording")
        self._recordings.delete(recording)
        return RestAnswer(204, None)

    def _download(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        recording = self._find(request, parts[0])
        if recording.status != "completed":
            raise RestRefusedError(20404, request.path)
        wanted = dict(request.query).get("RequestedChannels", str(recording.order.channels))
        if not re.fullmatch("[12]", wanted):
            raise RestRefusedError(20001, f"RequestedChannels is 1 or 2, not {wanted!r}")
        if int(wanted) > recording.order.channels:
            raise RestRefusedError(16113)
        content = recording_wav(recording, int(wanted))
        return RestAnswer(200, None, {"Content-Type": "audio/x-wav"}, content=content)


def _status(recording: RecordingRecord) -> str:
    """As whoever reads the resource sees it."""
    return recording.status if recording.status in ("completed", "absent", "deleted") else "processing"


def _deleted_too(request: RestRequest) -> bool:
    return dict(request.query).get("IncludeSoftDeleted", "").lower() == "true"
