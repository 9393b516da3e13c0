"""The commands as they are typed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.tunnel import free_port
from voice_runtime.cli import app
from voice_runtime.testing.fake_twilio import FakeTwilio

NUMBER = "+15005550006"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Everything on this machine; the token comes from ``.env``, as that of a customer does."""
    port = free_port()
    monkeypatch.chdir(tmp_path)
    with FakeTwilio() as fake:
        url = f"http://127.0.0.1:{port}"
        fake.add_number(NUMBER, voice_url=f"{url}/voice", sms_url=f"{url}/sms")
        (tmp_path / ".env").write_text(f"TWILIO_AUTH_TOKEN={fake.auth_token}\n")
        values = {
            "VOICE_STREAM_URL": f"ws://127.0.0.1:{port}",
            "VOICE_SERVER_HOST": "127.0.0.1",
            "VOICE_SERVER_PORT": str(port),
            "VOICE_STT": "mock",
            "VOICE_TTS": "mock",
            "TWILIO_ACCOUNT_SID": fake.account_sid,
            "TWILIO_PHONE_NUMBER": NUMBER,
            "TWILIO_API_BASE_URL": fake.api_base_url,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        yield values


def doctor(*options: str) -> Any:
    return CliRunner().invoke(app, ["doctor", *options])


class TestDoctor:
    """``voice-runtime doctor``"""

    def test_lines(self, environment: dict[str, str]) -> None:
        """A line each with mark, word, name and finding; what to do below; a summary; exit code 1 for an error."""
        result = doctor()
        assert result.exit_code == 1
        lines = result.stdout.splitlines()
        assert lines[0].startswith("✗ error   stream URL             VOICE_STREAM_URL is ws://127.0.0.1:")
        assert lines[1].strip().startswith("→ Use the public name of the server")
        assert "✓ ok      credentials us1" in result.stdout
        assert "✓ ok      webhook round trip     Nothing served it yet, so a server was started" in result.stdout
        assert lines[-2:] == ["", "1 error."]
        assert result.stderr == ""

    def test_json(self, environment: dict[str, str]) -> None:
        """Nothing but a list on stdout."""
        result = doctor("--json")
        assert result.exit_code == 1
        found = {check["name"]: check for check in json.loads(result.stdout)}
        assert set(found["clock"]) == {"name", "level", "found", "advice"}
        assert [name for name, check in found.items() if check["level"] == "error"] == ["stream URL"]
        assert result.stderr == ""

    def test_exit_code_0(self, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
        """When there are warnings at most."""
        monkeypatch.setattr("voice_runtime.doctor.check_stream_url", lambda settings: [])
        monkeypatch.delenv("TWILIO_PHONE_NUMBER")
        result = doctor("--json")
        assert [c["name"] for c in json.loads(result.stdout) if c["level"] not in ("ok", "skipped")] == ["number"]
        assert result.exit_code == 0

    def test_no_serve(self, environment: dict[str, str]) -> None:
        """Nothing is started."""
        result = doctor("--json", "--no-serve", "--timeout", "2")
        found = {check["name"]: check for check in json.loads(result.stdout)}
        assert "(connection refused)" in found["webhook round trip"]["found"]
        assert found["stream round trip"]["level"] == "skipped"

    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_settings_that_cannot_be_read(self, options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """One error, in the form that was asked for."""
        monkeypatch.setenv("VOICE_SERVER_PORT", "eighty")
        result = doctor(*options)
        assert result.exit_code == 1
        if options:
            (check,) = json.loads(result.stdout)
            assert (check["name"], check["level"]) == ("settings", "error")
        assert "VOICE_SERVER_PORT" in result.stdout

    @pytest.mark.parametrize("seconds", ["0", "11", "soon"])
    def test_the_deadline_is_ten_seconds_at_most(self, seconds: str) -> None:
        """Wrong usage is exit code 2."""
        assert doctor("--timeout", seconds).exit_code == 2

    def test_nothing_on_stderr(self, environment: dict[str, str]) -> None:
        """As a process of its own, without any logging set up: not a word about requests that had to be refused."""
        done = subprocess.run(
            [sys.executable, "-c", "from voice_runtime.cli import app; app()", "doctor", "--json"],
            capture_output=True,
            text=True,
            timeout=50,
        )
        assert done.returncode == 1
        assert {check["level"] for check in json.loads(done.stdout)} == {"ok", "error", "skipped"}
        assert done.stderr == ""

    def test_logging_is_left_as_it_was(self, environment: dict[str, str]) -> None:
        """No handler stays behind."""
        before = list(logging.getLogger("voice_runtime").handlers)
        doctor("--json")
        assert logging.getLogger("voice_runtime").handlers == before


def test_help_names_the_commands() -> None:
    """Nothing else is loaded for it."""
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "doctor" in result.stdout
    assert "demo" in result.stdout
