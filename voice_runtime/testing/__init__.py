"""For tests of programs that use this package, and of the package itself: a telephone network without telephones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clock import VirtualClock
    from .fake_twilio import FakeTwilio
    from .fake_twilio_settings import Faults, Timings
    from .phone import FakeCall, Phone
    from .speech import spoken

__all__ = ["FakeCall", "FakeTwilio", "Faults", "Phone", "Timings", "VirtualClock", "spoken"]

_HOMES = {
    "FakeCall": "phone",
    "FakeTwilio": "fake_twilio",
    "Faults": "fake_twilio_settings",
    "Phone": "phone",
    "Timings": "fake_twilio_settings",
    "VirtualClock": "clock",
    "spoken": "speech",
}


def __getattr__(name: str) -> Any:
    # On first use, so that the clock alone costs nothing else.
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{home}", __name__), name)
