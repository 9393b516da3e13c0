"""Choosing a transport by name."""

from __future__ import annotations

import re

import pytest
from fastapi import FastAPI

from voice_runtime.config import load
from voice_runtime.exceptions import ProviderNotFoundError
from voice_runtime.registry import register_provider, unregister_provider
from voice_runtime.session import VoiceSession
from voice_runtime.testing.memory_wire import MemoryServer, MemoryWire
from voice_runtime.transport import SmsTransport, Transport, create_transport, get_sms_transport
from voice_runtime.transports.twilio_call import TwilioTransport, build_stream_twiml
from voice_runtime.transports.twilio_sms import TwilioSms


class Pigeon:
    """A transport of somebody else's."""

    def __init__(self, ring: str = "") -> None:
        self.ring = ring

    def send_sms(self, to: str, body: str) -> dict[str, str]:
        return {"message_sid": self.ring, "status": "flying", "to": to}


def test_twilio_is_the_default() -> None:
    """Without a name Twilio's transports are made, and they have the documented functions."""
    transport = create_transport()
    assert isinstance(transport, TwilioTransport)
    assert isinstance(transport, Transport)
    assert transport.build_stream_twiml("wss://h") == build_stream_twiml("wss://h")
    sms = get_sms_transport()
    assert isinstance(sms, TwilioSms)
    assert isinstance(sms, SmsTransport)
    assert isinstance(create_transport(provider="twilio", settings=load()), TwilioTransport)
    assert isinstance(get_sms_transport(provider="twilio", sender="Bistro"), TwilioSms)


async def test_the_stream_is_registered_through_the_transport() -> None:
    """The transport's own register_voice_websocket serves /voice."""
    app = FastAPI()
    create_transport().register_voice_websocket(app, VoiceSession, insecure=True)
    async with MemoryServer(app) as server:
        wire = await server.connect("wss://voice.example.com/voice", [])
        assert isinstance(wire, MemoryWire)
        wire.abort()


@pytest.mark.parametrize("name", ["carrier pigeon", "", "Twilio"])
def test_unknown_names(name: str) -> None:
    """An unknown name is refused with the kind of thing that was looked for and the names there are."""
    with pytest.raises(ProviderNotFoundError, match=re.escape(f"Unknown transport: {name!r}. Known: twilio")):
        create_transport(name)
    with pytest.raises(ProviderNotFoundError, match=re.escape(f"Unknown SMS transport: {name!r}. Known: twilio")):
        get_sms_transport(name)


def test_a_registered_transport_is_found() -> None:
    """A third party's transport is found under its name and gets its options."""
    register_provider("sms", "pigeon", f"{__name__}:Pigeon")
    try:
        sms = get_sms_transport("pigeon", ring="7")
        assert sms.send_sms(to="+1", body="coo")["message_sid"] == "7"
    finally:
        unregister_provider("sms", "pigeon")
