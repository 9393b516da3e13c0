"""One-time tokens in the path of a stream: ``/voice/<token>``.

The handshake's signature covers the URL and nothing else, so what stands in the path cannot be changed, while
``<Parameter>`` values can. A token is made with the TwiML, is good for one handshake and expires; a handshake that
is replayed, late or meant for another call is refused before it is accepted.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["TokenBook"]

T = TypeVar("T")


class TokenBook(Generic[T]):
    """Issued and unused tokens with what they stand for. Any thread; times are seconds of one clock.

    Args:
        limit: most tokens outstanding; beyond it the oldest is forgotten (its call is refused).
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def issue(self, meaning: T, now: float, ttl: float) -> str:
        """A new token (URL-safe, 192 bits), good for ``ttl`` seconds from ``now``."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            for old in [old for old, (expires, _) in self._open.items() if expires <= now]:
                del self._open[old]
            while len(self._open) >= self._limit:
                self._open.popitem(last=False)
            self._open[token] = (now + ttl, meaning)
        return token

    def redeem(self, token: str, now: float) -> T | None:
        """What it stands for, once; None for a token that is unknown, used or expired."""
        with self._lock:
            expires, meaning = self._open.pop(token, (float("-inf"), None))
        return meaning if expires > now else None

    def revoke(self, token: str) -> None:
        """The call will not come."""
        with self._lock:
            self._open.pop(token, None)

    def __len__(self) -> int:
        return len(self._open)
