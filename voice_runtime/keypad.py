"""The keys the caller has pressed and nobody has asked for yet: a caller may type ahead."""

from __future__ import annotations

import threading
from collections import deque

from .bridge import Bridge

__all__ = ["Keypad"]

_LIMIT = 200


class Keypad:
    """One per call. Keeps 200 keys; then the oldest goes, counted in ``dropped``."""

    __slots__ = ("_bridge", "_keys", "dropped", "interrupts")

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._keys: deque[str] = deque()
        self.dropped = 0
        self.interrupts: threading.Event | None = None
        """Set by the next key: what is being said gives way to it."""

    def press(self, key: str) -> None:
        """The caller has pressed a key; any thread."""
        with self._bridge.lock:
            if len(self._keys) >= _LIMIT:
                self._keys.popleft()
                self.dropped += 1
            self._keys.append(key)
            if self.interrupts is not None:
                self.interrupts.set()
            self._bridge.condition.notify_all()

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
