"""Calls that hear each other: the paths their sound takes, and the keys that go from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from ..transports.mock_audio import FRAME_S
from .fake_twilio_records import CallRecord
from .fake_twilio_sound import AttentiveMouth, Sound, SoundPath

__all__ = ["Switchboard", "digits_s", "press", "send_key", "send_keys"]

_DIGIT_S = 0.25  # a key's tone and the pause behind it
_PAUSES_S = {"w": 0.5, "W": 1.0}


def digits_s(digits: str) -> float:
    """How long these keys take; ``w`` is half a second, ``W`` one."""
    return sum(_PAUSES_S.get(digit, _DIGIT_S) for digit in digits)


def press(call: CallRecord, digit: str) -> None:
    """The far end presses a key: the call's stream is told, or those it is joined with, or ``<Gather>``."""
    if (line := call.line) is not None:
        line.press(digit)
    elif call.keys_to is not None:
        call.keys_to(digit)
    else:
        call.keys_pressed.put_nowait(digit)


def send_key(call: CallRecord, digit: str) -> None:
    """The far end hears a key."""
    call.keys_heard += digit
    if call.far is not None:
        press(call.far, digit)


async def send_keys(call: CallRecord, digits: str) -> None:
    """``SendDigits`` and ``<Play digits>``: the far end hears key after key."""
    for digit in digits:
        if digit not in _PAUSES_S:
            send_key(call, digit)
        await asyncio.sleep(digits_s(digit))


class Switchboard:
    """Every path of sound that is not a stream's. Belongs to the fake's loop."""

    def __init__(self) -> None:
        self._paths: list[SoundPath] = []
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def playing(self, sound: Sound, call: CallRecord) -> Iterator[SoundPath]:
        """The far end of a call hears a sound within the block."""
        path = SoundPath(sound, call.heard)
        listeners = sound.listeners if isinstance(sound, AttentiveMouth) else []
        listeners.append(path.sync)
        self._paths.append(path)
        call.path = path
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FRAME_S, self._tick)
        try:
            yield path
        finally:
            path.sync()
            if call.path is path:
                call.path = None
            self._paths.remove(path)
            listeners.remove(path.sync)

    @contextlib.contextmanager
    def joined(
        self, caller: CallRecord, callee: CallRecord, on_key: Callable[[str], bool] | None = None
    ) -> Iterator[None]:
        """Two calls hear each other, and each other's keys, within the block.

        ``on_key`` is asked about each key of the caller; what it returns True for the callee does not hear.
        """

        def from_caller(digit: str) -> None:
            if on_key is None or not on_key(digit):
                send_key(callee, digit)

        def from_callee(digit: str) -> None:
            send_key(caller, digit)

        caller.peer, callee.peer = callee, caller
        caller.keys_to, callee.keys_to = from_caller, from_callee
        try:
            with self.playing(caller.mouth, callee), self.playing(callee.mouth, caller):
                yield
        finally:
            if caller.keys_to is from_caller:
                caller.keys_to = None
            if callee.keys_to is from_callee:
                callee.keys_to = None

    def _tick(self) -> None:
        self._timer = None
        for path in self._paths:
            path.sync()
        if self._paths:
            self._timer = asyncio.get_running_loop().call_later(FRAME_S, self._tick)

    def close(self) -> None:
        """Carry nothing any more."""
        self._paths.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
