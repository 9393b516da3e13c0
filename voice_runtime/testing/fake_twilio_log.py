"""What happened at the fake Twilio, in order: the place where tests look."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["EventLog", "LogEntry"]


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened.

    Kinds: ``rest`` (a request and its answer), ``webhook`` (a request for TwiML), ``callback`` (a status callback),
    ``fetch`` (of a recording), ``status`` (a call's or a message's new status), ``recording`` (a recording's new
    status), ``stream`` (connecting, started, ended), ``verb`` (a TwiML verb is executed), ``conference`` (an event of
    a conference), ``error`` and ``warning`` (an entry of Twilio's debugger: ``code``), ``keyword`` (somebody wrote
    ``stop``, ``start`` or ``help``).
    """

    at_s: float
    """Time of the fake's loop."""
    kind: str
    sid: str = ""
    """Of the call or message."""
    code: int | None = None
    text: str = ""
    data: dict[str, Any] = {}


class EventLog:
    """Written on the fake's loop; may be read from any thread."""

    def __init__(self) -> None:
        self._entries: list[LogEntry] = []

    def add(self, entry: LogEntry) -> None:
        self._entries.append(entry)

    def entries(self, kind: str | None = None, sid: str | None = None) -> list[LogEntry]:
        """The entries of a kind, of a call or message, in order."""
        return [
            entry
            for entry in list(self._entries)
            if (kind is None or entry.kind == kind) and (sid is None or entry.sid == sid)
        ]

    def codes(self, sid: str | None = None) -> list[int]:
        """The codes in Twilio's debugger, in order."""
        return [entry.code for entry in self.entries(sid=sid) if entry.code is not None]

    def texts(self, kind: str, sid: str | None = None) -> list[str]:
        """The texts of a kind of entries."""
        return [entry.text for entry in self.entries(kind, sid)]

    def __len__(self) -> int:
        return len(self._entries)
