"""What simulated people say, as audio."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from ..tts import SynthesizerTts, create_tts

__all__ = ["spoken"]


@functools.lru_cache(maxsize=256)
def spoken(text: str, provider: str = "espeak", **options: Any) -> bytes:
    """``text`` said by a voice of this machine, as 8 kHz μ-law for :meth:`FakeCall.says`. Any thread but a loop's.

    Args:
        provider: a registry name; ``espeak`` needs the extra ``local``, ``tone`` (beeps) nothing.
        options: of the provider, for example ``voice="en-us+f3"``.

    Raises:
        ProviderUnavailableError: its extra is not installed.
    """
    voice = create_tts(provider, **options)
    assert isinstance(voice, SynthesizerTts)
    synthesizer = voice.synthesizer

    async def make() -> bytes:
        return b"".join([chunk.audio async for chunk in synthesizer.synthesize(text)])

    return asyncio.run(make())
