"""How findings are shown."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from voice_runtime.doctor_report import (
    Check,
    Redactor,
    error,
    exit_code,
    ok,
    plain,
    render,
    skipped,
    summary,
    to_json,
    warning,
)

OK, SKIPPED = ok("clock", "Right."), skipped("number", "Not asked.")
WARNING, ERROR = warning("voice", "No key.", "Set it."), error("stream URL", "Not set.", "Set VOICE_STREAM_URL.")


@pytest.mark.parametrize(
    ("checks", "code", "text"),
    [
        ([OK, SKIPPED], 0, "All is well."),
        ([OK, WARNING], 0, "1 warning."),
        ([ERROR], 1, "1 error."),
        ([ERROR, OK, WARNING, ERROR], 1, "2 errors and 1 warning."),
        ([WARNING] * 10, 0, "10 warnings."),
    ],
)
def test_exit_code_and_summary(checks: list[Check], code: int, text: str) -> None:
    """Only errors make the exit code 1."""
    assert (exit_code(checks), summary(checks)) == (code, text)


def test_json() -> None:
    """Every field, always."""
    assert json.loads(to_json([WARNING, OK])) == [
        {"name": "voice", "level": "warning", "found": "No key.", "advice": "Set it."},
        {"name": "clock", "level": "ok", "found": "Right.", "advice": ""},
    ]


def test_plain_lines() -> None:
    """Marks and words; what belongs together stands in one column, and nothing is broken."""
    long = error("stream URL", "Found " * 60, "Set " * 60)
    lines = "\n".join(plain(check) for check in (OK, SKIPPED, WARNING, long)).splitlines()
    assert [line.split()[:2] for line in lines if "→" not in line] == [
        ["✓", "ok"],
        ["–", "skipped"],
        ["!", "warning"],
        ["✗", "error"],
    ]
    assert len(lines) == 6
    assert {
        line.index(word) for line, word in zip(lines, ("Right", "Not", "No", "→", "Found", "→"), strict=True)
    } == {lines[0].index("Right")}


@pytest.mark.parametrize("colour", [True, False])
def test_terminal(colour: bool) -> None:
    """Long sentences are broken inside their column; what looks like markup is not taken for it."""
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=colour, color_system="standard" if colour else None)
    console.print(render(error("stream URL", "A [bold]long[/bold] finding " * 6, "Do this.")))
    lines = output.getvalue().splitlines()
    assert "✗ error" in lines[0]
    assert "[bold]long[/bold]" in output.getvalue()
    assert "→ Do this." in lines[-1]
    assert ("\x1b[31m" in lines[0]) is colour
    if not colour:
        assert all(len(line) <= 80 for line in lines)
        assert all(line.startswith(" " * 30) for line in lines[1:])


def test_secrets_are_taken_out() -> None:
    """Wherever they stand, the longer before its part; what is too short to be one stays."""
    redact = Redactor(["hidden", "hidden-too", "ok", ""])
    check = redact(error("hidden", "It was hidden-too and hidden, ok.", "Not hidden."))
    assert (check.found, check.advice) == ("It was *** and ***, ok.", "Not ***.")
