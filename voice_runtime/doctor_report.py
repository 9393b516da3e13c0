"""What the doctor found, as values, as lines for people and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Check",
    "Level",
    "Redactor",
    "error",
    "exit_code",
    "ok",
    "plain",
    "render",
    "skipped",
    "summary",
    "to_json",
    "warning",
]

Level: TypeAlias = Literal["ok", "warning", "error", "skipped"]
"""``error``: calls fail because of it. ``warning``: they work, or some of them. ``skipped``: it was not looked at."""

_MARKS: dict[str, tuple[str, str]] = {
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "error": ("✗", "red"),
    "skipped": ("–", "dim"),
}
_LEVEL_COLUMNS = 9
_NAME_COLUMNS = 22
_SHORTEST_SECRET = 4  # less than this would take ordinary words out of the sentences


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report.

    Attributes:
        name: what was checked.
        found: what was found, a sentence or two.
        advice: what to do about it; empty where nothing is to be done.
    """

    name: str
    level: Level
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Check:
    return Check(name=name, level="ok", found=found)


def warning(name: str, found: str, advice: str) -> Check:
    return Check(name=name, level="warning", found=found, advice=advice)


def error(name: str, found: str, advice: str) -> Check:
    return Check(name=name, level="error", found=found, advice=advice)


def skipped(name: str, found: str) -> Check:
    return Check(name=name, level="skipped", found=found)


class Redactor:
    """Takes secrets out of what is shown, should one have got into it.

    Args:
        secrets: what must not be seen.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # The longest first: one may be a part of another.
        known = {secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}
        self._secrets = sorted(known, key=len, reverse=True)

    def __call__(self, check: Check) -> Check:
        return msgspec.structs.replace(check, found=self._clean(check.found), advice=self._clean(check.advice))

    def _clean(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def exit_code(checks: Sequence[Check]) -> int:
    """0 when nothing is wrong; warnings are not."""
    return int(any(check.level == "error" for check in checks))


def summary(checks: Sequence[Check]) -> str:
    """One sentence about all of them."""
    errors, warnings = (sum(check.level == level for check in checks) for level in ("error", "warning"))
    if not errors and not warnings:
        return "All is well."
    parts = [
        f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in ((errors, "error"), (warnings, "warning"))
    ]
    return f"{' and '.join(part for part in parts if not part.startswith('0 '))}."


def to_json(checks: Sequence[Check]) -> str:
    """A list of objects with ``name``, ``level``, ``found`` and ``advice``."""
    return msgspec.json.format(msgspec.json.encode(checks), indent=2).decode()


def plain(check: Check) -> str:
    """For a file or a pipe: one line, and a second one for the advice."""
    mark, _ = _MARKS[check.level]
    text = f"{mark} {check.level:<{_LEVEL_COLUMNS - 2}} {check.name:<{_NAME_COLUMNS}} {check.found}"
    return f"{text}\n  {'':<{_LEVEL_COLUMNS + _NAME_COLUMNS}}→ {check.advice}" if check.advice else text


def render(check: Check) -> Table:
    """For a terminal, with or without colour: level, name, what was found and, below it, what to do."""
    from rich.table import Table
    from rich.text import Text

    mark, style = _MARKS[check.level]
    told = Text(check.found)
    if check.advice:
        told.append(f"\n→ {check.advice}", style="bold")
    grid: Any = Table.grid(padding=(0, 1))
    grid.add_column(width=_LEVEL_COLUMNS)
    grid.add_column(width=_NAME_COLUMNS)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f"{mark} {check.level}", style=style), Text(check.name), told)
    table: Table = grid
    return table
