"""Speech providers, one module each, imported only when asked for by name (:mod:`voice_runtime.registry`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..stt import SttProvider as SttProvider
    from ..tts import TtsProvider as TtsProvider

__all__ = ["SttProvider", "TtsProvider"]


def __getattr__(name: str) -> Any:
    if name == "SttProvider":
        from ..stt import SttProvider

        return SttProvider
    if name == "TtsProvider":
        from ..tts import TtsProvider

        return TtsProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
