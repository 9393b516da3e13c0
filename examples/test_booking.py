"""A test of booking.py: a whole call in virtual time, with spoken words.

pytest examples/test_booking.py
"""

from booking import Booking

from voice_runtime import VoiceServer
from voice_runtime.config import Settings
from voice_runtime.testing import FakeCall, FakeTwilio, Phone, VirtualClock, spoken

NUMBER = "+15005550006"


def caller(call: FakeCall) -> None:
    call.wait_turn()  # the question was asked, and then it was quiet
    call.says(spoken("yes please"))


def test_confirms() -> None:
    with VirtualClock() as clock, FakeTwilio(clock=clock) as fake:
        settings = Settings(
            voice_stream_url="wss://voice.example.com",
            twilio_account_sid=fake.account_sid,
            twilio_auth_token=fake.auth_token,
            twilio_phone_number=NUMBER,
            voice_allowed_countries="FI",  # the caller's, who gets a message
            twilio_api_base_url=fake.api_base_url,
        )
        server = VoiceServer(Booking, stt="pocketsphinx", tts="espeak", settings=settings, clock=clock)
        fake.mount("voice.example.com", server.app)
        fake.add_number(NUMBER, voice_url="https://voice.example.com/voice")
        call = fake.place_call(to=NUMBER, from_="+358401234567", phone=Phone(script=caller))
        assert call.wait_ended() == "completed"
        flow = server.finished[-1]
        flow.wait(10)
        assert (flow.result, flow.error) == ("confirmed", None)
        assert [message.body for message in fake.messages] == ["Confirmed. See you at eight!"]
