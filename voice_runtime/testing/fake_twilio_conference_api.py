"""The REST API of conferences and their participants, on the fake's loop.

https://www.twilio.com/docs/voice/api/conference-resource,
https://www.twilio.com/docs/voice/api/conference-participant-resource
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from .fake_twilio_conference import ConferenceRecord, Conferences, Participant
from .fake_twilio_exchange import API_VERSION, Exchange, rfc2822
from .fake_twilio_records import CallRecord, Source
from .fake_twilio_requests import RestAnswer, RestRequest, Route, in_range
from .fake_twilio_resources import RestRefusedError, page_json

__all__ = ["ConferencesApi"]

_ATTRIBUTES = {  # the request's parameter -> the attribute of <Conference>
    "Muted": "muted",
    "StartConferenceOnEnter": "startConferenceOnEnter",
    "EndConferenceOnExit": "endConferenceOnExit",
    "Label": "participantLabel",
    "WaitUrl": "waitUrl",
    "WaitMethod": "waitMethod",
    "MaxParticipants": "maxParticipants",
    "ConferenceStatusCallback": "statusCallback",
    "ConferenceStatusCallbackMethod": "statusCallbackMethod",
}
_STATUS = {"queued": "queued", "ringing": "ringing", "in-progress": "connecting", "completed": "complete"}


class ConferencesApi:
    """Belongs to the fake's loop.

    ``place(request, source)`` makes the outbound call that a request asks for, with this TwiML; the event is set once
    its first callback has been delivered, None does not wait.
    """

    def __init__(
        self,
        exchange: Exchange,
        conferences: Conferences,
        place: Callable[[RestRequest, Source], tuple[CallRecord, asyncio.Event | None]],
    ) -> None:
        self._exchange = exchange
        self._conferences = conferences
        self._place = place
        part = r"([^/]+)"
        one = rf"/Conferences/{part}/Participants/{part}\.json"
        self.routes: list[Route] = [
            ("GET", r"/Conferences\.json", self._list),
            ("GET", rf"/Conferences/{part}\.json", self._fetch),
            ("POST", rf"/Conferences/{part}\.json", self._update),
            ("GET", rf"/Conferences/{part}/Participants\.json", self._list_participants),
            ("POST", rf"/Conferences/{part}/Participants\.json", self._create_participant),
            ("GET", one, self._fetch_participant),
            ("POST", one, self._update_participant),
            ("DELETE", one, self._delete_participant),
        ]

    # -- conferences --------------------------------------------------------------------------------------------

    def _room(self, request: RestRequest, sid: str) -> ConferenceRecord:
        room = self._conferences.rooms.get(sid)
        if room is None:
            raise RestRefusedError(20404, request.path)
        return room

    def _list(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        query = dict(request.query)
        items = [
            self._json(room)
            for room in reversed(self._conferences.rooms.values())
            if query.get("FriendlyName", room.name) == room.name
            and query.get("Status", room.status) == room.status
            and in_range(query, "DateCreated", room.created_at)
            and in_range(query, "DateUpdated", room.updated_at)
        ]
        return RestAnswer(200, page_json("conferences", items, request.path, request.query))

    def _fetch(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return RestAnswer(200, self._json(self._room(request, parts[0])))

    def _update(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        room, status = self._room(request, parts[0]), dict(request.form).get("Status")
        if status not in (None, "completed"):
            raise RestRefusedError(20001, f"Status is completed, not {status!r}")
        if status == "completed" and room.status != "completed":
            self._conferences.end(room, "conference-ended-via-api")
        return RestAnswer(200, self._json(room))

    def _json(self, room: ConferenceRecord) -> dict[str, Any]:
        uri = f"/{API_VERSION}/Accounts/{self._exchange.account_sid}/Conferences/{room.sid}"
        return {
            "account_sid": self._exchange.account_sid,
            "api_version": API_VERSION,
            "call_sid_ending_conference": room.ended_by,
            "date_created": rfc2822(room.created_at),
            "date_updated": rfc2822(room.updated_at),
            "friendly_name": room.name,
            "reason_conference_ended": room.reason_ended,
            "region": "us1",
            "sid": room.sid,
            "status": room.status,
            "subresource_uris": {
                "participants": f"{uri}/Participants.json",
                "recordings": f"{uri}/Recordings.json",
            },
            "uri": f"{uri}.json",
        }

    # -- participants -------------------------------------------------------------------------------------------

    def _participant(self, request: RestRequest, parts: tuple[str, ...]) -> Participant:
        """By the call's sid, or by the label."""
        room, name = self._room(request, parts[0]), parts[1]
        for participant in room.participants.values():
            if name in (participant.call.sid, participant.label):
                return participant
        raise RestRefusedError(20404, request.path)

    def _list_participants(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        query = dict(request.query)
        items = [
            self._participant_json(one)
            for one in self._room(request, parts[0]).participants.values()
            if query.get("Muted", str(one.muted)).lower() == str(one.muted).lower()
            and query.get("Hold", str(one.hold)).lower() == str(one.hold).lower()
        ]
        return RestAnswer(200, page_json("participants", items, request.path, request.query))

    def _fetch_participant(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        return RestAnswer(200, self._participant_json(self._participant(request, parts)))

    def _update_participant(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        participant, form = self._participant(request, parts), dict(request.form)
        if "Muted" in form:
            self._conferences.mute(participant, form["Muted"].lower() == "true")
        if "Hold" in form:
            hold = form["Hold"].lower() == "true"
            self._conferences.hold(participant, hold, form.get("HoldUrl", ""), form.get("HoldMethod", "POST"))
        if "EndConferenceOnExit" in form:
            participant.ends = form["EndConferenceOnExit"].lower() == "true"
        return RestAnswer(200, self._participant_json(participant))

    def _delete_participant(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        self._conferences.leave(self._participant(request, parts))
        return RestAnswer(204, None)

    def _create_participant(self, request: RestRequest, parts: tuple[str, ...]) -> RestAnswer:
        """A call that goes into the conference, which is named by its sid or by its friendly name."""
        known = self._conferences.rooms.get(parts[0])
        name = known.name if known is not None else parts[0]
        given = {_ATTRIBUTES[key]: value for key, value in request.form if key in _ATTRIBUTES}
        events = [value for key, value in request.form if key == "ConferenceStatusCallbackEvent"]
        given["statusCallbackEvent"] = " ".join(events) or "start end"
        attributes = "".join(f" {key}={quoteattr(value)}" for key, value in given.items())
        twiml = f"<Response><Dial><Conference{attributes}>{escape(name)}</Conference></Dial></Response>"
        call, told = self._place(request, Source(twiml=twiml))
        room = self._conferences.open(name)
        form = dict(request.form)
        # Here the detection never holds the call.
        call.async_amd = True
        call.async_amd_callback = form.get("AmdStatusCallback", "")
        call.async_amd_callback_method = form.get("AmdStatusCallbackMethod", "POST").upper()
        waiting = Participant(
            call=call,
            room=room,
            joined_at=call.created_at,
            label=form.get("Label", ""),
            muted=form.get("Muted", "").lower() == "true",
            starts=form.get("StartConferenceOnEnter", "true").lower() != "false",
            ends=form.get("EndConferenceOnExit", "").lower() == "true",
        )
        return RestAnswer(201, self._participant_json(waiting), after=told)

    def _participant_json(self, one: Participant) -> dict[str, Any]:
        account, call, room = self._exchange.account_sid, one.call, one.room
        connected = room.participants.get(call.sid) is one
        return {
            "account_sid": account,
            "call_sid": call.sid,
            "call_sid_to_coach": None,
            "coaching": False,
            "conference_sid": room.sid,
            "date_created": rfc2822(one.joined_at),
            "date_updated": rfc2822(one.joined_at),
            "end_conference_on_exit": one.ends,
            "hold": one.hold,
            "label": one.label or None,
            "muted": one.muted,
            "queue_time": str(call.queue_ms),
            "start_conference_on_enter": one.starts,
            "status": "connected" if connected else _STATUS.get(call.status, "failed"),
            "uri": f"/{API_VERSION}/Accounts/{account}/Conferences/{room.sid}/Participants/{call.sid}.json",
        }
