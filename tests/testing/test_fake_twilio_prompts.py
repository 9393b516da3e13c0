"""<Play> and <Say>: what is heard, and for how long."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from fastapi import Response
from fastapi.routing import APIRoute
from twilio.rest import Client

from voice_runtime.audio.g711 import pcm16_to_ulaw, ulaw_to_pcm16
from voice_runtime.audio.wav import ulaw_wav_header
from voice_runtime.testing.clock import VirtualClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import Phone

from .echo_app import EchoApp
from .leg_app import speech

THEM = "+4930123456"
MUSIC = speech(7, 700)
Serve = Callable[..., str]


@pytest.fixture
def serve(app: EchoApp) -> Serve:
    """Puts audio on the app's server; returns its path."""

    def add(content: bytes, media_type: str = "audio/basic") -> str:
        path = f"/sound{len(app.app.router.routes)}"

        async def sound() -> Response:
            return Response(content, media_type=media_type)

        app.app.router.routes.insert(0, APIRoute(path, sound, methods=["GET", "POST"]))
        return path

    return add


def pcm_wav(ulaw: bytes) -> bytes:
    data = ulaw_to_pcm16(ulaw)
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + len(data),
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        8000,
        16000,
        2,
        16,
        b"data",
        len(data),
    )
    return head + data


@pytest.mark.parametrize("kind", ["raw", "ulaw wav", "pcm wav"])
def test_play_is_heard(fake: FakeTwilio, app: EchoApp, serve: Serve, kind: str) -> None:
    """Sample for sample, from the moment it is there, as long as it is."""
    content = {"raw": MUSIC, "ulaw wav": ulaw_wav_header(len(MUSIC)) + MUSIC, "pcm wav": pcm_wav(MUSIC)}[kind]
    path = serve(content, "audio/basic" if kind == "raw" else "audio/wav")
    app.twiml["/twilio/voice"] = f'<Response><Pause length="1"/><Play>{path}</Play></Response>'
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert call.heard.heard_ulaw() == MUSIC
    assert call.heard.spans[0].at_ms == pytest.approx(1000)
    assert call.status_history[-1][0] - call.status_history[0][0] == pytest.approx(1.7)


def test_play_repeats_without_a_seam(fake: FakeTwilio, app: EchoApp, serve: Serve) -> None:
    """Three times, one piece; the pieces are noted."""
    odd = MUSIC[:1001]  # its length is no whole number of ms
    app.twiml["/twilio/voice"] = f'<Response><Play loop="3">{serve(odd)}</Play></Response>'
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert [span.data for span in call.heard.spans] == [odd * 3]


def test_play_for_ever(fake: FakeTwilio, app: EchoApp, serve: Serve, client: Client, clock: VirtualClock) -> None:
    """loop=0 goes on until the call is redirected or hung up, and stops there in the middle of a bar."""
    app.twiml["/twilio/voice"] = f'<Response><Play loop="0">{serve(MUSIC)}</Play><Say>Never</Say></Response>'
    call = fake.place_call(from_=THEM)
    clock.sleep(2)
    client.calls(call.sid).update(twiml='<Response><Pause length="2"/></Response>')
    call.wait_ended()
    assert call.said == []
    assert call.heard.heard_ulaw() == (MUSIC * 3)[: call.heard.heard_bytes()]
    assert 15_900 <= call.heard.heard_bytes() <= 16_000
    call = fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=60))
    call.wait_ended(100)
    assert 479_000 < call.heard.heard_bytes() <= 480_000


def test_silence_does_not_hang(fake: FakeTwilio, app: EchoApp, serve: Serve) -> None:
    """An empty file, for ever, takes time as well."""
    app.twiml["/twilio/voice"] = f'<Response><Play loop="0">{serve(b"")}</Play></Response>'
    call = fake.place_call(from_=THEM, phone=Phone(hang_up_after_s=0.01))
    assert call.wait_ended() == "completed"


def test_what_cannot_be_decoded_takes_its_time(fake: FakeTwilio, app: EchoApp, serve: Serve) -> None:
    """MP3 is silence of play_ms."""
    path = serve(b"ID3", "audio/mpeg")
    app.twiml["/twilio/voice"] = f"<Response><Play>{path}</Play></Response>"
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert call.heard.heard_bytes() == 0
    assert call.status_history[-1][0] - call.status_history[0][0] == pytest.approx(1)


def test_a_key_stops_the_music_of_a_gather(fake: FakeTwilio, app: EchoApp, serve: Serve, clock: VirtualClock) -> None:
    """What was played by then was heard, the rest was not."""
    path = serve(MUSIC)
    app.twiml["/twilio/voice"] = (
        f'<Response><Gather numDigits="1" action="/next"><Play loop="0">{path}</Play></Gather></Response>'
    )
    app.twiml["/next"] = '<Response><Pause length="3"/></Response>'
    call = fake.place_call(from_=THEM)
    clock.sleep(0.35)
    call.press("1")
    call.wait_ended()
    assert call.heard.heard_ulaw() == MUSIC[:2800]


def test_a_recording_holds_it(fake: FakeTwilio, app: EchoApp, serve: Serve, client: Client) -> None:
    """On the outbound track."""
    path = serve(MUSIC)
    app.twiml["/twilio/voice"] = f"<Response><Start><Recording/></Start><Play>{path}</Play></Response>"
    fake.place_call(from_=THEM).wait_ended()
    assert bytes(fake.recordings[0].outbound).strip(b"\xff") == pcm16_to_ulaw(ulaw_to_pcm16(MUSIC))


def test_a_document_may_be_audio(fake: FakeTwilio, app: EchoApp, serve: Serve) -> None:
    """A webhook that answers with audio is a <Play> of it."""
    app.twiml["/twilio/voice"] = f"<Response><Redirect>{serve(MUSIC)}</Redirect></Response>"
    call = fake.place_call(from_=THEM)
    call.wait_ended()
    assert call.heard.heard_ulaw() == MUSIC
