"""Keys or speech, whichever comes first: one attempt of :meth:`VoiceSession.gather`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from .events import Final, NoMatch
from .exceptions import CallHangupError
from .hearing import listen_result
from .live_call import LiveCall
from .results import GatherResult
from .turns.key_entry import KeyEntry, figures

__all__ = ["gather_once"]

_LONGEST_UTTERANCE_S = 30.0
_TRANSCRIPT_GRACE_S = 5.0  # a transcript comes 0.3 to 1.8 s after its audio


def gather_once(
    live: LiveCall,
    prompt: Callable[[threading.Event], object],
    *,
    digits: int | None,
    terminator: str,
    timeout: float,
    pause: float,
    speech: bool | Sequence[str],
) -> GatherResult:
    """Say the prompt, which gives way to the first key, and take what comes.

    Args:
        prompt: says it, and ends when the event it is given is set.
        timeout: seconds until the caller begins; ``pause`` between two keys.
        speech: False: keys only; True: any words, with ``digits`` spoken digits; or the answers that count.
    """
    keypad, hearing, bridge = live.keypad, live.hearing, live.bridge
    entry = KeyEntry(digits, terminator)
    expect = None if isinstance(speech, bool) else speech
    from_ms = hearing.prepare(expect, digits if expect is None else None) if speech else 0.0
    _say_prompt(live, prompt)
    deadline = bridge.clock.monotonic() + timeout
    spoke_on = False

    def said() -> bool:
        return bool(speech) and not entry.keys and (hearing.said_since(from_ms) or hearing.failed)

    while True:
        with bridge.lock:
            bridge.wait(lambda: keypad.waiting or said() or bridge.ended, deadline - bridge.clock.monotonic())
            if bridge.ended:
                raise CallHangupError(partial=GatherResult(digits=entry.keys, reason="hang_up"), reason=bridge.ended)
            key = keypad.take()
            heard = hearing.take_said(from_ms) if key is None and said() else None
        if key is not None:
            if entry.press(key):
                return _of_keys(entry)
            deadline = bridge.clock.monotonic() + pause
        elif heard is not None:
            return _of_speech(heard, expect, digits)
        elif speech and not entry.keys:
            hearing.raise_if_over()
            if not hearing.speaking or spoke_on:
                return GatherResult()
            # In the middle of a sentence: let it end, and its transcript come.
            spoke_on = True
            bridge.wait_until(
                lambda: not hearing.speaking or keypad.waiting or said() or bridge.ended, _LONGEST_UTTERANCE_S
            )
            deadline = bridge.clock.monotonic() + _TRANSCRIPT_GRACE_S
        else:
            return _of_keys(entry) if entry.keys else GatherResult()


def _say_prompt(live: LiveCall, prompt: Callable[[threading.Event], object]) -> None:
    pressed = threading.Event()
    with live.bridge.lock:
        live.keypad.interrupts = pressed
        typed_ahead = live.keypad.waiting
    try:
        if not typed_ahead:  # who knows the way need not hear it again
            prompt(pressed)
    finally:
        live.keypad.interrupts = None


def _of_keys(entry: KeyEntry) -> GatherResult:
    return GatherResult(
        digits=entry.keys, terminated=entry.terminated, reason="keys" if entry.valid else "incomplete"
    )


def _of_speech(event: Final | NoMatch, expect: Sequence[str] | None, digits: int | None) -> GatherResult:
    result = listen_result(event, expect)
    spoken = figures(result.text)
    reason = result.reason
    if reason == "speech" and expect is None and digits is not None and len(spoken) != digits:
        reason = "no_match"
    return GatherResult(
        digits=spoken,
        text=result.text,
        choice=result.choice,
        reason=reason,
        start_ms=result.start_ms,
        end_ms=result.end_ms,
    )
