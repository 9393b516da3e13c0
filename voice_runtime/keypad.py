"""The keys the caller has pressed and nobody has asked for yet: a caller may type ahead."""

from __future__ import annotations

import threading
from collections import deque

from .bridge import Bridge

__all__ = ["Keypad"]

_LIMIT = 200
_HABIT_S = 2.0


class Keypad:
    """One per call. Keeps 200 keys; then the oldest goes, counted in ``dropped``."""

    __slots__ = ("_bridge", "_keys", "_superfluous", "dropped", "interrupts")

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._keys: deque[str] = deque()
        self._superfluous = ("", 0.0)
        self.dropped = 0
        self.interrupts: threading.Event | None = None
        """Set by the next key: what is being said gives way to it."""

    def press(self, key: str) -> None:
        """The caller has pressed a key; any thread."""
        with self._bridge.lock:
            superfluous, until = self._superfluous
            self._superfluous = ("", 0.0)
            if key == superfluous and self._bridge.clock.monotonic() < until:
                return
            if len(self._keys) >= _LIMIT:
                self._keys.popleft()
                self.dropped += 1
            self._keys.append(key)
            if self.interrupts is not None:
                self.interrupts.set()
            self._bridge.condition.notify_all()

    def ignore_next(self, key: str) -> None:
        """Do without this key, should it be the next and come soon: many people end every entry with it (the lock
        must be held)."""
        if key and self._keys and self._keys[0] == key:
            self._keys.popleft()
        elif key:
            self._superfluous = (key, self._bridge.clock.monotonic() + _HABIT_S)

    def clear(self) -> None:
        """Forget the keys nobody has taken; any thread."""
        with self._bridge.lock:
            self._keys.clear()

    @property
    def waiting(self) -> bool:
        """Whether there is a key to take."""
        return bool(self._keys)

    def take(self) -> str | None:
        """The oldest key nobody has taken (the lock must be held)."""
        return self._keys.popleft() if self._keys else None
