"""A town with a telephone exchange: the server's app behind voice.example.com, at a Twilio that behaves, in virtual
time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.call_line import Recorder, ScriptedVoice, speaking
from voice_runtime.config import Settings
from voice_runtime.mock.stt import MockStt
from voice_runtime.server import VoiceServer
from voice_runtime.session import VoiceSession
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone

NUMBER = "+15005550006"
CALLER = "+358401234567"
VOICE = ScriptedVoice()


class Town:
    """A fake Twilio with the server's app behind voice.example.com."""

    def __init__(self, clock: VirtualClock, fake: FakeTwilio) -> None:
        self.clock = clock
        self.fake = fake
        self.events = Recorder()

    def settings(self, **changes: Any) -> Settings:
        values: dict[str, Any] = {
            "voice_stream_url": "wss://voice.example.com",
            "twilio_account_sid": self.fake.account_sid,
            "twilio_auth_token": self.fake.auth_token,
            "twilio_phone_number": NUMBER,
            "voice_allowed_countries": "*",
            "twilio_api_base_url": self.fake.api_base_url,
        }
        return Settings(**{**values, **changes})

    def serve(self, flow: Any, **options: Any) -> VoiceServer:
        settings = options.pop("settings", None) or self.settings()
        server = VoiceServer(
            flow,
            **{
                "tts": speaking(VOICE),
                "stt": MockStt,
                "settings": settings,
                "clock": self.clock,
                "observer": self.events.append,
                **options,
            },
        )
        self.fake.mount("voice.example.com", server.app)
        self.fake.add_number(NUMBER, voice_url="https://voice.example.com/voice")
        return server

    def call(self, *, to: str = NUMBER, from_: str = CALLER, **phone: Any) -> FakeCall:
        return self.fake.place_call(to=to, from_=from_, phone=Phone(**phone))


@contextlib.contextmanager
def town(**options: Any) -> Iterator[Town]:
    with VirtualClock() as clock, FakeTwilio(clock=clock, **options) as fake:
        yield Town(clock, fake)


class Greeter(VoiceSession):
    def run(self) -> str:
        self.say("hello and goodbye")
        return f"{self.caller_number} called {self.called_number}, {self.direction}"


class Sleeper(VoiceSession):
    def run(self) -> None:
        self.sleep(3600)
