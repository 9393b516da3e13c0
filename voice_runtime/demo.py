"""``voice-runtime demo``: two telephone calls on this machine, shown as they happen.

A server with a small flow, a Twilio of our own around it over real sockets, and simulated people at the other end.
What they say travels the wire as audio and is recognised from it. Needs the extra ``local``.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .audio.mixer import AudioMixer
from .config import Settings
from .events import (
    CallEnded,
    CallerHeard,
    CallerSpeaking,
    CallEvent,
    CallStarted,
    Cleared,
    MarkSettled,
    Outcome,
    SayFinished,
    SayStarted,
    SmsSent,
)
from .facts import CallFacts
from .flow import Call
from .server import VoiceServer
from .session import VoiceSession
from .testing.fake_twilio import FakeTwilio
from .testing.phone import FakeCall, Phone
from .testing.speech import spoken

__all__ = ["run_demo"]

_HOST = "voice.example.com"
_NUMBER = "+15005550006"
_INBOUND_CALLER = "+358401234567"
_OUTBOUND_CALLEE = "+358407654321"
_REASONS = {"hung_up": "our side hung up", "caller_hung_up": "the caller hung up"}


class Booking(VoiceSession):
    """The flow of both calls."""

    def run(self) -> str:
        answer = self.ask("Your table is booked for eight. Shall I confirm it?", expect=["yes", "no"])
        if answer.choice == "yes":
            self.send_sms("Confirmed. See you at eight!")
            self.say("Thank you, I have sent you a message. Goodbye!")
            return "confirmed"
        if answer.choice == "no":
            self.say("No problem, I have cancelled it. Goodbye!")
            return "cancelled"
        self.say("I am sorry, I did not understand. Goodbye!")
        return "not understood"


class _Screen:
    """Prints one line an event, with the seconds since the call began."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._said_at: dict[str, float] = {}
        self._caller_ended_at: dict[str, float] = {}

    def line(self, at_ms: float | None, who: str, style: str, text: str) -> None:
        stamp = "       " if at_ms is None else f"{at_ms / 1000:6.2f}s"
        with self._lock:
            self._console.print(Text.assemble((stamp, "dim"), "  ", (f"{who:<8}", style), "  ", text))

    def show(self, event: CallEvent) -> None:
        """Every event of every call comes here."""
        at, sid = event.at_ms, event.call_sid
        match event:
            case CallStarted(caller=caller, called=called):
                self.line(at, "line", "dim", f"stream up: {caller} to {called}, call {sid[:8]}…")
            case SayStarted(text=text):
                self._said_at[sid] = at
                ended = self._caller_ended_at.pop(sid, None)
                pause = "" if ended is None else f"  ({at - ended:.0f} ms after the caller's last word)"
                self.line(at, "agent", "bold cyan", f"says “{text}”{pause}")
            case SayFinished(heard_text=heard, heard_ms=ms, outcome=outcome):
                verdict = "heard whole" if outcome is Outcome.PLAYED else f"{outcome.value}, heard “{heard}”"
                took = at - self._said_at.get(sid, at)
                self.line(at, "agent", "cyan", f"{verdict}: {ms / 1000:.2f} s of speech in {took / 1000:.2f} s")
            case CallerSpeaking(speaking=True):
                self.line(at, "caller", "yellow", "speaks …")
            case CallerHeard(text=text, start_ms=start, end_ms=end):
                self._caller_ended_at[sid] = end
                self.line(
                    at,
                    "caller",
                    "bold yellow",
                    f"understood “{text}”, spoken from {start / 1000:.2f} to {end / 1000:.2f} s",
                )
            case MarkSettled(label="end", outcome=outcome, played_ms=ms):
                self.line(at, "mark", "dim", f"came back ({outcome.value}): {ms / 1000:.2f} s of our audio so far")
            case Cleared(unheard_ms=ms):
                self.line(at, "line", "dim", f"cleared, {ms:.0f} ms unheard")
            case SmsSent(to=to, body=body):
                self.line(at, "sms", "bold green", f"to {to}: “{body}”  (to our own Twilio)")
            case CallEnded(reason=reason, duration_ms=ms):
                self.line(at, "line", "dim", f"call over: {_REASONS.get(reason, reason)}, {ms / 1000:.1f} s")


def _answers(screen: _Screen, text: str) -> Callable[[FakeCall], None]:
    audio = spoken(text)

    def person(call: FakeCall) -> None:
        call.wait_turn()
        screen.line(None, "person", "magenta", f"says “{text}”")
        call.says(audio)

    return person


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_demo(folder: Path, console: Console | None = None) -> bool:
    """Place both calls; recordings and transcripts go into ``folder``. True when both came out as they should.

    Raises:
        ProviderUnavailableError: the extra ``local`` is not installed; the message holds the install line.
    """
    console = console or Console(highlight=False, soft_wrap=True)
    folder.mkdir(parents=True, exist_ok=True)
    screen = _Screen(console)
    began = time.monotonic()
    port = _free_port()
    with FakeTwilio() as fake:
        settings = Settings(
            voice_stream_url=f"wss://{_HOST}",
            voice_server_host="127.0.0.1",
            voice_server_port=port,
            twilio_account_sid=fake.account_sid,
            twilio_auth_token=fake.auth_token,
            twilio_phone_number=_NUMBER,
            voice_allowed_countries="US,FI",
            twilio_api_base_url=fake.api_base_url,
        )
        mixers: dict[str, AudioMixer] = {}

        def answer(facts: CallFacts) -> VoiceSession:
            """One session per call, recorded from its first frame."""
            session = Booking()
            name = "outbound" if facts.direction.startswith("outbound") else "inbound"
            mixers[name] = AudioMixer(record_path=folder / f"{name}.wav", stereo=True, monitor=False)
            mixers[name].start()
            session.set_mixer(mixers[name])
            return session

        server = VoiceServer(answer, stt="pocketsphinx", tts="espeak", settings=settings, observer=screen.show)
        fake.route(_HOST, ("127.0.0.1", port))
        fake.add_number(_NUMBER, voice_url=f"https://{_HOST}/voice")
        fake.phones[_OUTBOUND_CALLEE] = Phone(ring_ms=700, script=_answers(screen, "no thank you"))
        with server.running():
            console.rule("[bold]An inbound call")
            screen.line(None, "person", "magenta", f"{_INBOUND_CALLER} dials {_NUMBER}")
            inbound = _take(
                server,
                fake.place_call(
                    to=_NUMBER, from_=_INBOUND_CALLER, phone=Phone(script=_answers(screen, "yes please"))
                ),
            )
            console.rule("[bold]An outbound call")
            screen.line(None, "script", "magenta", f"server.dial({_OUTBOUND_CALLEE!r})")
            outbound = server.dial(_OUTBOUND_CALLEE)
            outbound.wait(30)
            fake.wait_for_call(to=_OUTBOUND_CALLEE).wait_ended()
    for mixer in mixers.values():
        mixer.shutdown()
    calls = {"inbound": inbound, "outbound": outbound}
    for name, call in calls.items():
        _write_transcript(folder / f"{name}.txt", call)
    _summary(console, calls, folder, len(fake.messages), time.monotonic() - began)
    return (inbound.result, outbound.result, len(fake.messages)) == ("confirmed", "cancelled", 1)


def _take(server: VoiceServer, call: FakeCall) -> Call:
    """Our side of a call that Twilio brings; returns when it is over on both."""
    call.wait_streaming()
    ours = next(ours for ours in server.calls if ours.call_sid == call.sid)
    ours.wait(30)
    call.wait_ended()
    return ours


def _write_transcript(path: Path, call: Call) -> None:
    lines = [f"{line.at_ms / 1000:7.2f}s  {line.speaker:<6}  {line.text}\n" for line in call.transcript]
    path.touch(mode=0o600)  # as the recording: what people said is nobody else's business
    path.write_text("".join(lines), encoding="utf-8")


def _summary(console: Console, calls: dict[str, Call], folder: Path, messages: int, seconds: float) -> None:
    console.rule("[bold]What happened")
    for name, call in calls.items():
        console.print(
            f"{name:<9} run() returned [bold]{call.result!r}[/]; {_REASONS.get(call.ended_reason, call.ended_reason)}"
        )
        console.print(f"          recording   {folder / name}.wav  (8 kHz μ-law; left the caller, right the agent)")
        console.print(f"          transcript  {folder / name}.txt")
    console.print(f"{messages} text message sent. Everything took {seconds:.1f} s and no account.")
