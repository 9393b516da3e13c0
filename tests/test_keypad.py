"""The keys the caller has pressed and nobody has asked for yet."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from voice_runtime.bridge import Bridge
from voice_runtime.keypad import Keypad
from voice_runtime.testing.clock import VirtualClock


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with VirtualClock() as clock:
        yield Bridge(clock)


def taken(bridge: Bridge, keypad: Keypad) -> str:
    with bridge.lock:
        return "".join(iter(keypad.take, None))


def test_keys_are_taken_in_the_order_of_pressing(bridge: Bridge) -> None:
    """Each once; then there is none."""
    keypad = Keypad(bridge)
    assert not keypad.waiting
    for key in "12#*":
        keypad.press(key)
    assert keypad.waiting
    assert taken(bridge, keypad) == "12#*"
    assert not keypad.waiting


def test_keys_nobody_has_taken_can_be_forgotten(bridge: Bridge) -> None:
    """Those pressed afterwards count."""
    keypad = Keypad(bridge)
    keypad.press("1")
    keypad.clear()
    assert not keypad.waiting
    keypad.press("2")
    assert taken(bridge, keypad) == "2"


def test_two_hundred_are_kept_and_the_oldest_goes(bridge: Bridge) -> None:
    """Somebody who leans on the keys costs no memory; what was lost is counted."""
    keypad = Keypad(bridge)
    for n in range(203):
        keypad.press(str(n % 10))
    assert keypad.dropped == 3
    kept = taken(bridge, keypad)
    assert kept == "".join(str(n % 10) for n in range(3, 203))


def test_a_key_wakes_who_waits(bridge: Bridge) -> None:
    """At once, in whatever thread."""
    keypad = Keypad(bridge)
    clock = bridge.clock

    def caller() -> None:
        clock.sleep(3)
        keypad.press("7")

    thread = clock.start_thread(caller, "caller")
    assert bridge.wait_until(lambda: keypad.waiting, 60)
    assert clock.monotonic() == 3
    thread.join()


def test_a_key_interrupts_what_is_being_said(bridge: Bridge) -> None:
    """The event that stands in for the prompt is set by the key, and by nothing else."""
    keypad = Keypad(bridge)
    pressed = threading.Event()
    keypad.press("1")
    keypad.interrupts = pressed
    assert not pressed.is_set()
    keypad.press("2")
    assert pressed.is_set()
    keypad.interrupts = None
    keypad.press("3")
    assert taken(bridge, keypad) == "123"
