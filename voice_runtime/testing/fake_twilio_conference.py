"""``<Dial><Conference>``: rooms in which everybody hears the sum of the others.

https://www.twilio.com/docs/voice/twiml/conference. A room begins with its second participant, if somebody in it has
``startConferenceOnEnter``. The beeps of those who come and go, and Twilio's own music, have no sound here.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Literal

from ..transports.mock_wire import make_sid
from .fake_twilio_bridging import send_key
from .fake_twilio_callbacks import deliver
from .fake_twilio_exchange import Exchange, rfc2822
from .fake_twilio_queue import Entertain
from .fake_twilio_records import Callback, CallRecord
from .fake_twilio_sound import Piece, overlay
from .fake_twilio_twiml import Problem, Verb, resolve
from .fake_twilio_webhooks import Form

__all__ = ["ConferenceDialling", "ConferenceRecord", "Conferences", "Participant"]

_MAX_PARTICIPANTS = 250
_SUBSCRIPTIONS = {
    "conference-start": "start",
    "conference-end": "end",
    "participant-join": "join",
    "participant-leave": "leave",
    "participant-mute": "mute",
    "participant-unmute": "mute",
    "participant-hold": "hold",
    "participant-unhold": "hold",
    "participant-modify": "modify",
}


@dataclasses.dataclass(eq=False, kw_only=True)
class Participant:
    """A call in a room."""

    call: CallRecord
    room: ConferenceRecord
    joined_at: float
    label: str = ""
    muted: bool = False
    starts: bool = True
    """The conference may begin now that this one is here."""
    ends: bool = False
    """The conference is over when this one leaves."""
    hold: bool = False
    hold_url: str = ""
    hold_method: str = "POST"
    wait_url: str = ""
    wait_method: str = "POST"
    on_key: Callable[[str], None] | None = None
    """Takes the participant's keys while the conference goes on."""
    changed: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Something else is to be heard now."""
    gone: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """What the participant hears of the others; see :class:`~.fake_twilio_sound.Sound`."""
        others = [one for one in self.room.participants.values() if one is not self]
        return overlay([one.call.mouth.pieces(begin, end) for one in others if not one.muted and not one.hold])


@dataclasses.dataclass(eq=False, kw_only=True)
class ConferenceRecord:
    """A room."""

    sid: str
    name: str
    created_at: float
    """Seconds since 1970, as the other dates."""
    updated_at: float
    status: Literal["init", "in-progress", "completed"] = "init"
    participants: dict[str, Participant] = dataclasses.field(default_factory=dict)
    """By the call's sid, in the order in which they came."""
    reason_ended: str | None = None
    ended_by: str | None = None
    """The sid of the call that ended it."""
    sequence: int = 0
    callback_url: str = ""
    callback_method: str = "POST"
    callback_events: frozenset[str] = frozenset()
    callbacks: asyncio.Queue[Callback | None] = dataclasses.field(default_factory=asyncio.Queue)
    """Waiting to be delivered, in order; None ends them."""

    def sync(self) -> None:
        """Bring what everybody hears up to now."""
        for participant in self.participants.values():
            participant.call.sync()


class Conferences:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange, entertain: Entertain) -> None:
        self._exchange = exchange
        self._entertain = entertain
        self.rooms: dict[str, ConferenceRecord] = {}
        """By sid, in order, with those that are over."""

    def find(self, name: str) -> ConferenceRecord | None:
        """The room of this name that is not over."""
        return next((room for room in self.rooms.values() if room.name == name and room.status != "completed"), None)

    def open(self, name: str) -> ConferenceRecord:
        """The room of this name, new if there is none."""
        room = self.find(name)
        if room is None:
            now = self._exchange.now()
            room = ConferenceRecord(sid=make_sid("CF"), name=name, created_at=now, updated_at=now)
            self.rooms[room.sid] = room
            self._exchange.spawn(deliver(self._exchange, room.callbacks, room.sid))
            self._exchange.note("conference", text="created", conference_sid=room.sid, name=name)
        return room

    def enter(self, call: CallRecord, verb: Verb, base_url: str) -> Participant | None:
        """A call comes into the room that ``<Conference>`` names; None when that is full."""
        get = verb.attributes.get
        limit = int(self._exchange.number(call, verb, "maxParticipants", _MAX_PARTICIPANTS))
        room = self.open(verb.text)
        if len(room.participants) >= limit:
            text = f"expected at most {limit} participants in conference {room.sid}; another one came"
            self._exchange.report(call, Problem(13234, text))
            return None
        if not room.callback_url and not room.participants:  # those of the first count
            room.callback_url = resolve(base_url, get("statusCallback", ""))
            room.callback_method = get("statusCallbackMethod", "POST")
            room.callback_events = frozenset(get("statusCallbackEvent", "").split())
        participant = Participant(
            call=call,
            room=room,
            joined_at=self._exchange.now(),
            label=get("participantLabel", ""),
            muted=get("muted") == "true",
            starts=get("startConferenceOnEnter", "true") != "false",
            ends=get("endConferenceOnExit") == "true",
            wait_url=resolve(base_url, get("waitUrl", "")),
            wait_method=get("waitMethod", "POST"),
        )
        room.sync()
        room.participants[call.sid] = participant
        call.mouth.listeners.append(room.sync)
        self._tell("participant-join", room, participant)
        present = room.participants.values()
        if room.status == "init" and len(present) > 1 and any(one.starts for one in present):
            room.status = "in-progress"
            self._tell("conference-start", room)
            for one in present:
                one.changed.set()
        return participant

    async def stay(self, participant: Participant) -> None:
        """Hear what there is to hear, until the participant is gone."""
        while not participant.gone.is_set():
            participant.changed.clear()
            hearing = asyncio.get_running_loop().create_task(self._hear(participant))
            change = asyncio.get_running_loop().create_task(participant.changed.wait())
            try:
                await asyncio.wait({hearing, change}, return_when=asyncio.FIRST_COMPLETED)
                if hearing.done():
                    hearing.result()
                    await change
            finally:
                hearing.cancel()
                change.cancel()
                await asyncio.gather(hearing, change, return_exceptions=True)

    async def _hear(self, participant: Participant) -> None:
        call, room = participant.call, participant.room
        facts: Form = [("ConferenceSid", room.sid), ("FriendlyName", room.name)]
        if participant.hold:
            if participant.hold_url:
                await self._entertain(call, participant.hold_url, participant.hold_method, lambda: facts)
        elif room.status != "in-progress":
            if participant.wait_url:
                await self._entertain(call, participant.wait_url, participant.wait_method, lambda: facts)
        else:
            call.keys_to = participant.on_key
            try:
                with self._exchange.switchboard.playing(participant, call):
                    await participant.gone.wait()
            finally:
                call.keys_to = None

    def press(self, participant: Participant, digit: str) -> None:
        """A key of a participant; the others hear it."""
        room = participant.room
        if room.status == "in-progress" and not participant.muted and not participant.hold:
            for other in list(room.participants.values()):
                if other is not participant and not other.hold:
                    send_key(other.call, digit)

    # -- changes ------------------------------------------------------------------------------------------------

    def mute(self, participant: Participant, muted: bool) -> None:
        """The others do not hear the participant any more, or hear them again."""
        if participant.muted != muted:
            participant.room.sync()
            participant.muted = muted
            self._tell("participant-mute" if muted else "participant-unmute", participant.room, participant)

    def hold(self, participant: Participant, hold: bool, url: str = "", method: str = "POST") -> None:
        """The participant neither hears the others nor is heard."""
        if participant.hold != hold:
            participant.room.sync()
            participant.hold, participant.hold_url, participant.hold_method = hold, url, method
            participant.changed.set()
            self._tell("participant-hold" if hold else "participant-unhold", participant.room, participant)

    def leave(self, participant: Participant, reason: str = "participant_updated_via_api") -> None:
        """The participant is out of the room, and perhaps the room is empty or over. Nothing happens twice."""
        room, call = participant.room, participant.call
        if participant.gone.is_set():
            return
        self._remove(participant, reason)
        if room.status == "completed":
            return
        if participant.ends:
            self.end(room, "participant-with-end-conference-on-exit-left", call.sid)
        elif not room.participants:
            self.end(room, "last-participant-left", call.sid)

    def end(self, room: ConferenceRecord, reason: str, by: str | None = None) -> None:
        """The conference is over; everybody in it goes on with their TwiML."""
        room.status = "completed"
        room.reason_ended, room.ended_by = reason, by
        for participant in list(room.participants.values()):
            self._remove(participant, "conference_ended")
        self._tell("conference-end", room)
        room.callbacks.put_nowait(None)

    def _remove(self, participant: Participant, reason: str) -> None:
        room, call = participant.room, participant.call
        room.sync()
        del room.participants[call.sid]
        call.mouth.listeners.remove(room.sync)
        participant.gone.set()
        participant.changed.set()
        self._tell("participant-leave", room, participant, reason)

    # -- callbacks ----------------------------------------------------------------------------------------------

    def _tell(
        self, event: str, room: ConferenceRecord, participant: Participant | None = None, reason: str = ""
    ) -> None:
        exchange = self._exchange
        room.updated_at = exchange.now()
        room.sequence += 1
        sid = participant.call.sid if participant is not None else ""
        exchange.note("conference", sid=sid, text=event, conference_sid=room.sid, name=room.name)
        if not room.callback_url or _SUBSCRIPTIONS[event] not in room.callback_events:
            return
        form = [
            ("AccountSid", exchange.account_sid),
            ("ConferenceSid", room.sid),
            ("FriendlyName", room.name),
            ("StatusCallbackEvent", event),
            ("SequenceNumber", str(room.sequence)),
            ("Timestamp", rfc2822(exchange.now())),
        ]
        if participant is not None:
            form += [
                ("CallSid", sid),
                ("Muted", _word(participant.muted)),
                ("Hold", _word(participant.hold)),
                ("Coaching", "false"),
                ("StartConferenceOnEnter", _word(participant.starts)),
                ("EndConferenceOnExit", _word(participant.ends)),
            ]
            if participant.label:
                form.append(("ParticipantLabel", participant.label))
        if reason:
            form.append(("ReasonParticipantLeft", reason))
        if event == "conference-end":
            form.append(("ReasonConferenceEnded", room.reason_ended or ""))
            if room.ended_by:
                form.append(("CallSidEndingConference", room.ended_by))
        room.callbacks.put_nowait(Callback(url=room.callback_url, method=room.callback_method, form=form))


def _word(value: bool) -> str:
    return "true" if value else "false"


class ConferenceDialling:
    """``<Dial><Conference>``: the call itself is in the room."""

    def __init__(
        self,
        exchange: Exchange,
        conferences: Conferences,
        call: CallRecord,
        conference: Verb,
        base_url: str,
        hang_up_on_star: bool,
    ) -> None:
        self._exchange = exchange
        self._conferences = conferences
        self._call = call
        self._verb = conference
        self._base_url = base_url
        self._hang_up_on_star = hang_up_on_star
        self._participant: Participant | None = None

    async def run(self) -> Form:
        call = self._call
        participant = self._conferences.enter(call, self._verb, self._base_url)
        if participant is None:
            return self.facts()
        self._participant = participant

        def on_key(digit: str) -> None:
            if digit == "*" and self._hang_up_on_star:
                self._conferences.leave(participant, "participant_hung_up")
            else:
                self._conferences.press(participant, digit)

        participant.on_key = on_key
        self._exchange.awake(call)
        try:
            await self._conferences.stay(participant)
        finally:
            self.stop()
        return self.facts()

    def stop(self) -> None:
        if self._participant is not None:
            reason = "participant_updated_via_api" if self._call.alive else "participant_hung_up"
            self._conferences.leave(self._participant, reason)

    def facts(self) -> Form:
        return [("DialCallStatus", "failed" if self._participant is None else "answered")]
