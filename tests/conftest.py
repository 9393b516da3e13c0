"""What every test has: no leaks, no settings of the machine it runs on."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest

_OURS = ("TWILIO_", "VOICE_", "ELEVENLABS_", "AZURE_", "STT_", "TRANSPORT")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in list(os.environ):
        if name.startswith(_OURS):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Threads of the test have ended with it; those of executors and pools that live on by design are named."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while left := [t for t in threading.enumerate() if t not in before and not t.name.startswith(_POOLS)]:
        if time.monotonic() > deadline:
            pytest.fail(f"threads were left behind: {[t.name for t in left]}")
        time.sleep(0.01)


_POOLS = (
    "asyncio_",  # the default executor of a loop that pytest closes later
    "AnyIO worker",
    "pocketsphinx",
)


@pytest.fixture(autouse=True)
def _no_connection_is_kept() -> Iterator[None]:
    yield
    if "voice_runtime.transports.twilio_rest" in sys.modules:
        sys.modules["voice_runtime.transports.twilio_rest"].close_clients()


@pytest.fixture
def unused_port() -> int:
    """A port nobody listens on, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
