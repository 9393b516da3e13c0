"""Every example runs, as its own process, against a Twilio of our own over real sockets."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.people import answering
from voice_runtime.clock import SystemClock
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.phone import FakeCall, Phone
from voice_runtime.testing.speech import spoken

EXAMPLES = Path(__file__).parent.parent / "examples"
HOST = "voice.example.com"
NUMBER = "+15005550006"
PERSON = "+358401234567"

# Lets an example that names no provider, and so means ElevenLabs, speak and listen on this machine.
LOCAL = """
import runpy, sys
from voice_runtime.registry import register_provider
register_provider("tts", "elevenlabs", "voice_runtime.providers.espeak_tts:EspeakSynthesizer")
register_provider("stt", "elevenlabs", "tests.test_examples:yes_or_no")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def yes_or_no() -> object:
    from voice_runtime.stt import create_stt

    return create_stt("pocketsphinx", expect=["yes", "no"])


class Stage:
    """A fake Twilio, and an example in a process of its own."""

    def __init__(self, fake: FakeTwilio, port: int) -> None:
        self.fake = fake
        self.port = port
        fake.route(HOST, ("127.0.0.1", port))
        fake.add_number(NUMBER, voice_url=f"https://{HOST}/voice")

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "VOICE_STREAM_URL": f"wss://{HOST}",
            "VOICE_SERVER_HOST": "127.0.0.1",
            "VOICE_SERVER_PORT": str(self.port),
            "TWILIO_ACCOUNT_SID": self.fake.account_sid,
            "TWILIO_AUTH_TOKEN": self.fake.auth_token,
            "TWILIO_PHONE_NUMBER": NUMBER,
            "TWILIO_API_BASE_URL": self.fake.api_base_url,
            "PYTHONPATH": str(EXAMPLES.parent),
        }
        return subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    @contextlib.contextmanager
    def serving(self, name: str) -> Iterator[None]:
        process = self.start(str(EXAMPLES / name))
        clock = SystemClock()
        try:
            for _ in range(300):
                with contextlib.suppress(httpx.TransportError):
                    if httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200:
                        break
                assert process.poll() is None, process.communicate()[1]
                clock.sleep(0.1)
            yield
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=20)
        assert "Traceback" not in errors

    def call(self, phone: Phone) -> FakeCall:
        return self.fake.place_call(to=NUMBER, from_=PERSON, phone=phone)


@pytest.fixture
def stage(unused_port: int) -> Iterator[Stage]:
    with FakeTwilio() as fake:
        yield Stage(fake, unused_port)


def test_quick_example_in_its_printed_order(stage: Stage) -> None:
    """The recogniser is assigned after the stream has started, and yet hears the answer."""
    stage.fake.phones[PERSON] = Phone(ring_ms=200, script=answering("yes please", after_ms=1500))
    process = stage.start("-c", LOCAL, str(EXAMPLES / "quick_example.py"), PERSON)
    call = stage.fake.wait_for_call(to=PERSON, timeout=30)
    assert call.wait_ended(60) == "completed"
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Caller said: ['yes']" in output
    assert call.heard.heard_ms() > 1000


@pytest.mark.parametrize(("answer", "messages"), [("yes please", 1), ("no thank you", 0)])
def test_booking(stage: Stage, answer: str, messages: int) -> None:
    """The caller confirms or cancels; only a confirmation sends a message."""
    with stage.serving("booking.py"):
        call = stage.call(Phone(script=answering(answer)))
        assert call.wait_ended(60) == "completed"
    assert len(stage.fake.messages) == messages


def test_call_and_ask(stage: Stage) -> None:
    """A script places a call and prints the answer."""
    stage.fake.phones[PERSON] = Phone(ring_ms=200, script=answering("no thank you"))
    process = stage.start(str(EXAMPLES / "call_and_ask.py"), PERSON)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Answer: no" in output
    assert "caller: no" in output


def test_call_and_ask_says_why_nobody_answered(stage: Stage) -> None:
    """Busy is an answer, too."""
    stage.fake.phones[PERSON] = Phone(ring_ms=100, answer="busy")
    process = stage.start(str(EXAMPLES / "call_and_ask.py"), PERSON)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "busy" in output


def test_echo(stage: Stage) -> None:
    """What the caller says comes back, every sample of it."""
    sentence = spoken("hello, is anybody there")

    def person(call: FakeCall) -> None:
        call.sleep(0.3)
        call.says(sentence)
        call.hears(sentence, timeout=5)
        call.hang_up()

    with stage.serving("echo.py"):
        call = stage.call(Phone(script=person))
        call.wait_ended(30)
        assert call.heard.find(sentence) >= 0


def test_the_readmes_test_passes() -> None:
    """The test that README prints is the file, and it passes as a user runs it."""
    example = EXAMPLES / "test_booking.py"
    readme = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    assert example.read_text(encoding="utf-8").partition('"""\n\n')[2] in readme
    assert (EXAMPLES / "booking.py").read_text(encoding="utf-8").partition('"""\n\n')[2] in readme
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(EXAMPLES),
        str(example),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_example_is_tested() -> None:
    """A new example needs a test here."""
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested] == []
