"""A fake Twilio in virtual time, and the app it calls."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twilio.rest import Client

from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio

from .echo_app import HOST, EchoApp

OURS = "+15005550006"


@pytest.fixture
def clock() -> Iterator[VirtualClock]:
    with VirtualClock() as clock:
        yield clock


@pytest.fixture
def fake(clock: VirtualClock) -> Iterator[FakeTwilio]:
    fake = FakeTwilio(clock=clock)
    with fake.running():
        yield fake


@pytest.fixture
def app(fake: FakeTwilio) -> EchoApp:
    app = EchoApp(fake.auth_token)
    fake.mount(HOST, app.app)
    fake.add_number(OURS, voice_url=f"https://{HOST}/twilio/voice", sms_url=f"https://{HOST}/sms")
    return app


@pytest.fixture
def client(fake: FakeTwilio) -> Client:
    client = Client(fake.account_sid, fake.auth_token, environment={"_": "x"})
    client.api.base_url = fake.api_base_url
    return client
