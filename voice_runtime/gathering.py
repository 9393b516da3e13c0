"""Keys or speech, whichever comes first: one attempt of :meth:`VoiceSession.gather`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from .events import Final, NoMatch
from .exceptions import CallHangupError, ProviderError
from .hearing import LONGEST_UTTERANCE_S, TRANSCRIPT_GRACE_S, listen_result
from .live_call import LiveCall
from .results import GatherResult
from .turns.key_entry import KeyEntry, figures

__all__ = ["gather_once"]

log = logging.getLogger(__name__)


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
    from_ms, deaf = 0.0, None
    if speech:
        try:
            from_ms = hearing.prepare(expect, digits if expect is None else None)
        except ProviderError as error:
            log.warning("Call %s: gather() takes keys only, for recognition failed: %s", live.call_sid, error)
            speech, deaf = False, error
    _say_prompt(live, prompt)
    deadline = bridge.clock.monotonic() + timeout
    spoke_on = False

    def said() -> bool:
        return bool(speech) and not entry.keys and hearing.said_since(from_ms)

    while True:
        with bridge.lock:
            bridge.wait(lambda: keypad.waiting or said() or bridge.ended, deadline - bridge.clock.monotonic())
            if bridge.ended:
                raise CallHangupError(partial=GatherResult(digits=entry.keys, reason="hung_up"), reason=bridge.ended)
            key = keypad.take()
            heard = hearing.take_said(from_ms) if key is None and said() else None
        if key is not None:
            if entry.press(key):
                if not entry.terminated:
                    with bridge.lock:
                        keypad.ignore_next(terminator)
                return _of_keys(entry)
            deadline = bridge.clock.monotonic() + pause
        elif heard is not None:
            return _of_speech(heard, expect, digits)
        elif speech and not entry.keys:
            hearing.raise_if_over()  # a recogniser that has failed: no key came either
            if not hearing.speaking or spoke_on:
                return GatherResult()
            # In the middle of a sentence: let it end, and its transcript come.
            spoke_on = True
            bridge.wait_until(
                lambda: not hearing.speaking or keypad.waiting or said() or bridge.ended, LONGEST_UTTERANCE_S
            )
            deadline = bridge.clock.monotonic() + TRANSCRIPT_GRACE_S
        elif entry.keys:
            return _of_keys(entry)
        elif deaf is not None:
            raise deaf
        else:
            return GatherResult()


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
