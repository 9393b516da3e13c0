"""What every benchmark hands back: facts for the JSON, a table for people, and targets that were met or missed."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["Result", "Target", "exit_code", "print_targets", "spread"]


@dataclass(frozen=True)
class Target:
    """A figure and the most it may be. NaN, for what could not be measured, never meets it."""

    name: str
    value: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.value <= self.limit


@dataclass
class Result:
    """One benchmark's."""

    name: str
    table: Table
    facts: Any
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def spread(values: Iterable[float], digits: int = 2) -> str:
    """``median (least-most)``."""
    ordered = sorted(values)
    middle = statistics.median(ordered)
    if len(ordered) == 1:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({ordered[0]:.{digits}f}-{ordered[-1]:.{digits}f})"


def exit_code(targets: list[Target], *, check: bool) -> int:
    """1 when a missed target shall count and one was missed."""
    return 1 if check and not all(target.met for target in targets) else 0


def print_targets(console: Console, targets: list[Target]) -> None:
    console.print()
    for target in targets:
        verdict = "[green]PASS[/]" if target.met else "[bold red]FAIL[/]"
        unit = f" {target.unit}" if target.unit else ""
        console.print(f"{verdict}  {target.name}: {target.value:.3g}{unit} (at most {target.limit:g}{unit})")
