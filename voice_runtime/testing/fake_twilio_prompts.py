"""What the far end is played: ``<Say>``, which has a length but no sound here, and ``<Play>``, which is heard.

https://www.twilio.com/docs/voice/twiml/play
"""

from __future__ import annotations

import asyncio

from ..audio.wav import AudioFormatError, read_ulaw
from ..transports.mock_audio import SAMPLES_PER_SECOND
from .fake_twilio_bridging import send_keys
from .fake_twilio_exchange import Exchange
from .fake_twilio_records import CallRecord
from .fake_twilio_sound import Clip, now_samples
from .fake_twilio_twiml import Verb, resolve
from .fake_twilio_webhooks import WebhookAnswer, WebhookFailure

__all__ = ["Prompter"]

_RAW_ULAW = ("audio/basic", "audio/x-mulaw", "audio/ulaw")
_SILENCE = b"\xff"


class Prompter:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def say(self, call: CallRecord, verb: Verb) -> None:
        """A text, as long as its characters take; ``loop`` times, 0: until interrupted."""
        times = int(self._exchange.number(call, verb, "loop", 1))
        while True:
            call.said.append(verb.text)
            await asyncio.sleep(max(1, len(verb.text)) * self._exchange.timings.say_ms_per_character / 1000)
            times -= 1
            if times == 0:
                return

    async def play(self, call: CallRecord, base_url: str, verb: Verb) -> None:
        """Keys, or audio from a URL; ``loop`` times, 0: until interrupted."""
        digits = verb.attributes.get("digits")
        if digits is not None:
            await send_keys(call, digits)
            return
        url = resolve(base_url, verb.text)
        answer = await self._exchange.webhooks.fetch(url, sid=call.sid)
        if isinstance(answer, WebhookFailure):
            self._exchange.note("error", sid=call.sid, code=answer.code, text=answer.message)
            return
        times = int(self._exchange.number(call, verb, "loop", 1))
        audio = self._decoded(answer)
        if audio is None:
            await self._play(call, url, None, round(self._exchange.timings.play_ms * 8), times)
        else:
            await self._play(call, url, audio, len(audio), times)

    async def _play(self, call: CallRecord, url: str, audio: bytes | None, length: int, times: int) -> None:
        loop = asyncio.get_running_loop()
        begin = now_samples()
        began_s = loop.time()
        clip = Clip(begin, audio or b"", times or None)
        with self._exchange.switchboard.playing(clip, call):
            played = 0
            while True:
                call.played.append(url)
                played += 1
                until_s = began_s + played * max(1, length) / SAMPLES_PER_SECOND
                await asyncio.sleep(until_s - loop.time())
                if played == times:
                    return

    @staticmethod
    def _decoded(answer: WebhookAnswer) -> bytes | None:
        """None for audio that has no sound here, MP3 for example."""
        kind = answer.content_type.split(";")[0].strip().lower()
        if kind in _RAW_ULAW:
            return answer.body
        try:
            return read_ulaw(answer.body)
        except AudioFormatError:
            return None
