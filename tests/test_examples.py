"""Every example runs, as its own process, against a Twilio of our own over real sockets.

An *act* is an example with the people it meets. Most of an act is waiting for somebody to finish a sentence, so a few
are performed at a time, by a pool of threads; each test takes the outcome of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.people import answering, conversation, has_heard, listening, where_said
from voice_runtime.audio.wav import read_ulaw
from voice_runtime.clock import SystemClock
from voice_runtime.hold import waiting_tone
from voice_runtime.testing.fake_twilio import FakeTwilio
from voice_runtime.testing.fake_twilio_settings import Timings
from voice_runtime.testing.phone import FakeCall, Phone
from voice_runtime.testing.speech import spoken

EXAMPLES = Path(__file__).parent.parent / "examples"
HOST = "voice.example.com"
NUMBER = "+358942450000"
PERSON = "+358401234567"
OTHER = "+358407654321"
COLLEAGUE = "+358409999999"

AT_A_TIME = 6  # acts; on two cores more would wait for each other
QUICK = Timings(
    calls_per_second=10, dialing_ms=50, busy_ms=100, stream_connect_ms=50, say_ms_per_character=15, message_sent_ms=50
)
PORTS = itertools.count(20_000 + os.getpid() % 10_000)  # below those that connections are given

# Lets an example that names no provider, and so means ElevenLabs, speak and listen on this machine.
LOCAL = """
import runpy, sys
from voice_runtime.registry import register_provider
register_provider("tts", "elevenlabs", "voice_runtime.providers.espeak_tts:EspeakSynthesizer")
register_provider("stt", "elevenlabs", "tests.test_examples:yes_or_no")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# Shows everything the package logs.
LOUD = """
import logging, runpy, sys
logging.basicConfig()
logging.getLogger("voice_runtime").setLevel(logging.DEBUG)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def yes_or_no() -> object:
    from voice_runtime.stt import create_stt

    return create_stt("pocketsphinx", expect=["yes", "no"])


def free_port() -> int:
    for port in PORTS:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class Stage:
    """A fake Twilio, and an example in a process of its own, which works in ``folder``."""

    def __init__(self, fake: FakeTwilio, folder: Path, environment: dict[str, str]) -> None:
        self.fake = fake
        self.folder = folder
        self.port = free_port()
        fake.route(HOST, ("127.0.0.1", self.port))
        self.add_number(NUMBER)
        self.environment = {
            **environment,
            "VOICE_STREAM_URL": f"wss://{HOST}",
            "VOICE_SERVER_HOST": "127.0.0.1",
            "VOICE_SERVER_PORT": str(self.port),
            "TWILIO_ACCOUNT_SID": fake.account_sid,
            "TWILIO_AUTH_TOKEN": fake.auth_token,
            "TWILIO_PHONE_NUMBER": NUMBER,
            "TWILIO_API_BASE_URL": fake.api_base_url,
            "PYTHONPATH": str(EXAMPLES.parent),
        }
        self.output = ""
        """What the example printed, once it has ended."""
        self.errors = ""
        self._processes: list[subprocess.Popen[str]] = []

    def add_number(self, number: str) -> None:
        self.fake.add_number(number, voice_url=f"https://{HOST}/voice", sms_url=f"https://{HOST}/sms")

    def start(self, *command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *command],
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def run(self, name: str, *arguments: str, code: int = 0) -> str:
        """A script, from its beginning to its end; returns what it printed."""
        process = self.start(str(EXAMPLES / name), *arguments)
        self.end(process, 45)
        assert process.returncode == code, self.errors
        return self.output

    @contextlib.contextmanager
    def serving(self, name: str, *arguments: str, loud: bool = False) -> Iterator[None]:
        """A server, while the block runs."""
        process = self.start(*(("-c", LOUD) if loud else ()), str(EXAMPLES / name), *arguments)
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
            self.end(process, 20)

    def end(self, process: subprocess.Popen[str], timeout: float) -> None:
        self.output, self.errors = process.communicate(timeout=timeout)
        assert "Traceback" not in self.errors, self.errors

    def close(self) -> None:
        """No process outlives its act."""
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                self.output, self.errors = process.communicate()

    def tell(self, error: BaseException) -> None:
        """Have a failure say what happened on this stage."""
        for entry in self.fake.log.entries():
            error.add_note(f"{entry.at_s:.2f} {entry.kind} {entry.sid[-4:]} {entry.text}")
        for call in self.fake.calls:
            error.add_note(f"{call.sid}: {call.outcome}, heard {call.heard.heard_ms():.0f} ms; {call.script_error!r}")
        error.add_note(f"It printed {self.output}\n{self.errors}")

    def call(
        self,
        script: Callable[[FakeCall], object] | None = None,
        *,
        from_: str = PERSON,
        to: str = NUMBER,
        **extra: str,
    ) -> FakeCall:
        """Somebody calls the example."""
        return self.fake.place_call(to=to, from_=from_, phone=Phone(script=script), extra=list(extra.items()))

    def somebody_at(self, number: str, script: Callable[[FakeCall], object] | None = None, **behaviour: Any) -> None:
        """Who is there when the example calls."""
        self.fake.phones[number] = Phone(**{"ring_ms": 200, "script": script, **behaviour})


Act = Callable[[Stage], None]
ACTS: dict[str, Act] = {}


def act(function: Act) -> Act:
    ACTS[function.__name__] = function
    return function


def perform(function: Act, folder: Path, environment: dict[str, str]) -> None:
    with FakeTwilio(timings=QUICK) as fake:
        stage = Stage(fake, folder, environment)
        try:
            function(stage)
        except BaseException as error:
            stage.close()
            stage.tell(error)
            raise
        finally:
            stage.close()


# -- the first minutes --------------------------------------------------------------------------------------------


@act
def quick_example(stage: Stage) -> None:
    """The recogniser is assigned after the stream has started, and yet hears the answer."""

    def person(call: FakeCall) -> None:
        call.wait_turn(4000)  # the recogniser takes its time to come
        while True:
            call.says(spoken("yes please"))
            call.sleep(4)

    stage.somebody_at(PERSON, person)
    process = stage.start("-c", LOCAL, str(EXAMPLES / "quick_example.py"), PERSON)
    call = stage.fake.wait_for_call(to=PERSON, timeout=30)
    assert call.wait_ended(40) == "completed"
    stage.end(process, 30)
    assert process.returncode == 0, stage.errors
    assert "Caller said: ['yes']" in stage.output
    assert call.heard.heard_ms() > 1000


@act
def readme(stage: Stage) -> None:
    """The test that README prints is the file, and it passes as a user runs it."""
    example = EXAMPLES / "test_booking.py"
    text = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    assert example.read_text(encoding="utf-8").partition('"""\n\n')[2] in text
    assert (EXAMPLES / "booking.py").read_text(encoding="utf-8").partition('"""\n\n')[2] in text
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLES)]
    stage.end(process := stage.start("-m", "pytest", *options, str(example)), 50)
    assert process.returncode == 0, stage.output


@act
def booking(stage: Stage) -> None:
    """One caller confirms, another cancels; only the confirmation sends a message."""
    with stage.serving("booking.py"):
        yes = stage.call(answering("yes please"))
        no = stage.call(answering("no thank you"), from_=OTHER)
        assert yes.wait_ended(40) == no.wait_ended(40) == "completed"
    assert [(message.to, message.body) for message in stage.fake.messages] == [
        (PERSON, "Confirmed. See you at eight!")
    ]
    assert has_heard(yes, "Thank you, I have sent you a message. Goodbye!")
    assert has_heard(no, "No problem, I have cancelled it. Goodbye!")


@act
def call_and_ask(stage: Stage) -> None:
    """A script places a call and prints the answer."""
    stage.somebody_at(PERSON, answering("no thank you"))
    output = stage.run("call_and_ask.py", PERSON)
    assert "Answer: no" in output
    assert "caller: no" in output


@act
def call_and_ask_a_busy_number(stage: Stage) -> None:
    """Busy is an answer, too."""
    stage.somebody_at(PERSON, answer="busy")
    assert "busy" in stage.run("call_and_ask.py", PERSON)


@act
def echo(stage: Stage) -> None:
    """What the caller says comes back, every sample of it."""
    sentence = spoken("hello, is anybody there")

    def person(call: FakeCall) -> None:
        call.sleep(0.3)
        call.says(sentence)
        call.hears(sentence, timeout=5)
        call.hang_up()

    with stage.serving("echo.py"):
        call = stage.call(person)
        call.wait_ended(30)
    assert call.heard.find(sentence) >= 0


# -- keys and words -----------------------------------------------------------------------------------------------


@act
def menu(stage: Stage) -> None:
    """Silence brings the question again, and a word answers it; a key cuts it short, and a busy desk is told of."""
    question = "For opening hours press one or say hours. For the desk press two or say desk."

    def silent_at_first(call: FakeCall) -> None:
        listening(call, question)
        listening(call, "Sorry? One for hours, two for the desk.")
        call.says(spoken("hours please"))

    def in_a_hurry(call: FakeCall) -> None:
        call.wait_heard_ms(1000)
        call.press("2")

    stage.somebody_at(COLLEAGUE, answer="busy")
    with stage.serving("menu.py", COLLEAGUE):
        by_word, by_key = stage.call(silent_at_first), stage.call(in_a_hurry, from_=OTHER)
        assert by_word.wait_ended(40) == by_key.wait_ended(40) == "completed"
    assert has_heard(by_word, "We are open from nine to five. Goodbye!")
    assert has_heard(by_key, "One moment, please.", "The desk is busy. Please call again later.")
    assert not has_heard(by_key, question)


@act
def pin_entry(stage: Stage) -> None:
    """The right PIN at the second attempt opens, three wrong ones do not; the keys are in no log."""
    stage.environment["VOICE_LOG_TRANSCRIPTS"] = "true"
    prompt, wrong = "Please enter your PIN.", "This PIN is not right."
    with stage.serving("pin_entry.py", loud=True):
        owner = stage.call(conversation((prompt, "08159#"), (prompt, "4711")))
        thief = stage.call(conversation((prompt, "4711"), (prompt, "4712"), (prompt, "4713")), from_=OTHER)
        assert owner.wait_ended(40) == thief.wait_ended(40) == "completed"
    assert has_heard(owner, prompt, wrong, prompt, "Thank you. Your balance is twenty euros.")
    assert not has_heard(owner, wrong, wrong)  # what was too much is no attempt
    assert has_heard(thief, prompt, wrong, prompt, wrong, prompt, wrong, "I cannot let you in. Goodbye.")
    log = re.sub(
        "CA[0-9a-f]{32}", "CA", "".join(re.findall("^(?:DEBUG|INFO|WARNING):.*\n", stage.errors, re.MULTILINE))
    )
    assert f"the agent was heard to say '{wrong}'" in log
    assert not re.search("0815|471", log + stage.output)


@act
def hold(stage: Stage) -> None:
    """The caller hears that the line lives while the order is looked up, then the answer."""
    with stage.serving("hold.py"):
        call = stage.call(conversation(("Please enter your order number, then the hash key.", "42#")))
        assert call.wait_ended(40) == "completed"
    tone = call.heard.find(waiting_tone()[: 3 * 8000])
    assert 0 <= tone < where_said("Order 4 2 leaves tomorrow.", call.heard.heard_ulaw())


@act
def goodbye(stage: Stage) -> None:
    """Who stays hears all, and a second of nothing; of who leaves in the middle is known what they heard."""
    terms = "You may return it within thirty days. Shipping is free. The warranty is two years."

    def hangs_up(call: FakeCall) -> None:
        call.wait_heard_ms(2500)
        call.hang_up()

    with stage.serving("goodbye.py"):
        stays = stage.call()
        leaves = stage.call(hangs_up, from_=OTHER)
        assert stays.wait_ended(40) == leaves.wait_ended(40) == "completed"
    assert has_heard(stays, terms, "Goodbye!")
    ended_ms = (stays.status_history[-1][0] - stays.heard.origin_s) * 1000
    assert ended_ms - (stays.heard.last_ms() or 0) >= 990
    assert f"{stays.sid}: hung_up, having heard all" in stage.output
    said = re.search(f"{leaves.sid}: caller_hung_up, having heard '(.*)'", stage.output)
    assert said
    assert terms.startswith(said[1])
    assert said[1].startswith("You may return it within thirty")
    assert "warranty" not in said[1]


# -- other people -------------------------------------------------------------------------------------------------


@act
def extension(stage: Stage) -> None:
    """The keys reach the menu, who answers behind it hears the question, and the script prints their answer."""

    def company(call: FakeCall) -> None:
        call.says(spoken("Welcome."))
        listening(call, "Hello! Is the blue bicycle ready?")
        call.says(spoken("yes"))

    stage.somebody_at(PERSON, company)
    output = stage.run("extension.py", PERSON, "1w12#")
    (call,) = stage.fake.calls
    assert call.keys_heard == "112#"
    assert "Ready? yes" in output


@act
def receptionist(stage: Stage) -> None:
    """Two numbers and four kinds of callers: six ways to be received."""
    shop = "+358942450001"
    stage.add_number(shop)
    with stage.serving("receptionist.py", shop):
        calls = {
            "This is the shop. We are open until six.": stage.call(to=shop),
            "Welcome back, Anna.": stage.call(StirVerstat="TN-Validation-Passed-A"),
            "This is the office. Who is speaking?": stage.call(StirVerstat="TN-Validation-Failed-A"),
            "You called a colleague who is out today.": stage.call(from_="+358501234567", ForwardedFrom=COLLEAGUE),
        }
        blocked, withheld = stage.call(from_=OTHER), stage.call(from_="anonymous")
        assert (blocked.wait_ended(30), withheld.wait_ended(30)) == ("rejected", "busy")
        assert {call.wait_ended(30) for call in calls.values()} == {"completed"}
    assert [sentence for sentence, call in calls.items() if not has_heard(call, sentence)] == []


@act
def transfer(stage: Stage) -> None:
    """The colleague hears who calls, the two talk, and the caller is asked afterwards; a busy one is told of."""
    greeting, thanks = spoken("Anna here, hello."), spoken("Hello Anna.")

    def caller(call: FakeCall) -> None:
        listening(call, "I put you through to Anna.")
        call.hears(greeting)
        call.says(thanks)
        listening(call, "Could she help you?")
        call.says(spoken("yes"))

    def colleague(call: FakeCall) -> None:
        call.wait_joined()
        call.says(greeting)
        call.hears(thanks)
        call.hang_up()

    stage.somebody_at(COLLEAGUE, colleague)
    with stage.serving("transfer.py", COLLEAGUE):
        call = stage.call(caller)
        assert call.wait_ended(40) == "completed"
        stage.somebody_at(COLLEAGUE, answer="busy")
        in_vain = stage.call(from_=OTHER)
        assert in_vain.wait_ended(30) == "completed"
    assert call.peer is not None
    assert call.peer.wait_ended() == "completed"
    assert call.peer.said == ["A caller from the front desk."]
    assert has_heard(call, "I put you through to Anna.", "Could she help you?", "Thank you. Goodbye!")
    assert has_heard(in_vain, "She is on the telephone. Please try again in ten minutes.")


@act
def conference(stage: Stage) -> None:
    """The caller and the agent meet, and the flow has the caller back when the agent leaves."""
    greeting, thanks = spoken("What can I do for you?"), spoken("Nothing, thank you.")

    def caller(call: FakeCall) -> None:
        listening(call, "I call an adviser. One moment.")
        call.hears(greeting)
        call.says(thanks)
        listening(call, "Was that helpful?")
        call.says(spoken("no"))

    def agent(call: FakeCall) -> None:
        call.wait_joined()
        call.says(greeting)
        call.hears(thanks)
        call.hang_up()

    stage.somebody_at(COLLEAGUE, agent)
    with stage.serving("conference.py", COLLEAGUE):
        call = stage.call(caller)
        assert call.wait_ended(40) == "completed"
    (invited,) = [other for other in stage.fake.calls if other.to == COLLEAGUE]
    assert invited.wait_ended() == "completed"
    assert invited.said == ["A caller wants advice."]
    assert has_heard(call, "Was that helpful?", "Thank you. Goodbye!")


# -- campaigns ----------------------------------------------------------------------------------------------------


@act
def voicemail_drop(stage: Stage) -> None:
    """The machine has the whole message, from behind its beep, and the script knows that it was one."""
    stage.somebody_at(PERSON, answered_by="machine", greeting=spoken("Anna here. Please leave a message."))
    assert "machine: message left" in stage.run("voicemail_drop.py", PERSON)
    (call,) = stage.fake.calls
    assert where_said("The library here. Your book has come. Goodbye!", call.message_left) > 0
    assert where_said("Will you fetch it today?", call.message_left) < 0


@act
def voicemail_drop_to_a_person(stage: Stage) -> None:
    """A person is asked."""
    question = "The library here. Your book has come. Will you fetch it today?"
    stage.somebody_at(PERSON, conversation((question, "yes")), detection_ms=500)
    assert "answered: today: yes" in stage.run("voicemail_drop.py", PERSON)


@act
def reminder(stage: Stage) -> None:
    """Each number has its line: an answer, why nobody answered, or the rule that forbids the call."""
    stage.somebody_at(PERSON, conversation(("The dentist expects you tomorrow. Will you come?", "yes")))
    stage.somebody_at(OTHER, answer="busy")
    (stage.folder / "do-not-call.txt").write_text(f"{COLLEAGUE}  # asked us not to\n", encoding="utf-8")
    output = stage.run("reminder.py", OTHER, COLLEAGUE, "+12025550123", "12", PERSON)
    assert output.splitlines() == [
        "+358…21 not reached: busy",
        "+358…99 not called: do_not_call",
        "+120…23 not called: allowed_countries",
        "12 not called: valid_number",
        "+358…67 comes: yes",
    ]
    assert [call.to for call in stage.fake.calls] == [OTHER, PERSON]


# -- what Twilio keeps --------------------------------------------------------------------------------------------


@act
def sms(stage: Stage) -> None:
    """A guest is reminded and cancels; another cannot be, having written STOP; a call is not taken."""
    stage.environment["TWILIO_MESSAGING_SERVICE_SID"] = stage.fake.add_messaging_service(NUMBER)
    number = stage.fake.numbers[NUMBER]
    webhook, number.sms_url = number.sms_url, ""
    stage.fake.send_message(to=NUMBER, from_=OTHER, body="STOP")
    number.sms_url = webhook
    with stage.serving("sms.py", PERSON, OTHER):
        for text in ("Fine!", "No", "no"):
            stage.fake.send_message(to=NUMBER, from_=PERSON, body=text)
        assert stage.call().wait_ended(20) == "rejected"
    reminded, *replies = [message for message in stage.fake.messages if message.direction != "inbound"]
    assert (reminded.to, reminded.status) == (PERSON, "canceled")
    assert [message.body for message in replies] == [
        "See you at eight!",
        "Your table is cancelled.",
        "It is too late to cancel. Please call us.",
    ]
    assert "+358…67 in three hours, billed as 1 message\n" in stage.output
    assert "+358…21 has opted out" in stage.output


@act
def recording(stage: Stage) -> None:
    """The bill is on the recording, the card number is not, and the file is complete."""
    prompt = "Please enter your card number, then the hash key."
    aside = spoken("four one one one, and now the rest by the keys")

    def payer(call: FakeCall) -> None:
        listening(call, prompt)
        call.says(aside)
        call.press("4111111111111111#")

    stage.somebody_at(PERSON, payer)
    output = stage.run("recording.py", PERSON)
    assert "answered 16 keys" in output
    (record,) = stage.fake.recordings
    file = stage.folder / f"{record.sid}.wav"
    assert f"{file.name}: {record.duration_s} s in 2 channels, completed" in output
    assert len(read_ulaw(file)) >= record.duration_s * 8000 - 8000
    heard = bytes(record.outbound)
    assert 0 < where_said("The bill is twenty euros.", heard) < where_said("Thank you. Goodbye!", heard)
    assert where_said(prompt, heard) < 0
    assert set(record.inbound) == {0xFF}


@act
def call_list(stage: Stage) -> None:
    """Every call of today, numbers masked; when Twilio does not answer an error and no list."""
    calls = [stage.fake.place_call(to=NUMBER, from_=person) for person in (PERSON, OTHER)]
    for call in calls:
        call.hang_up()
        call.wait_ended(10)
    output = stage.run("call_list.py")
    assert "+358…67 to +358…00: " in output
    assert output.endswith("2 calls since midnight\n")
    assert PERSON not in output
    stage.fake.faults.rest_503_before = 100
    assert stage.run("call_list.py", code=1) == ""
    assert "No list, rather than a part of it" in stage.errors


# -- the tests -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def performances(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """The acts of the tests that were chosen."""
    items = (item for item in request.session.items if getattr(item, "originalname", "") == test_example.__name__)
    names = [item.callspec.params["name"] for item in items]  # type: ignore[attr-defined]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("VOICE_", "TWILIO_"))}
    before = set(threading.enumerate())
    with ThreadPoolExecutor(AT_A_TIME, "act") as pool:
        yield {name: pool.submit(perform, ACTS[name], tmp_path_factory.mktemp(name), environment) for name in names}
        pool.shutdown(cancel_futures=True)
    left = [thread.name for thread in threading.enumerate() if thread not in before]
    assert [name for name in left if not name.startswith(("asyncio_", "AnyIO worker"))] == []


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> None:
    """Instead of the suite's: while a test waits for its act, others go on. :func:`performances` looks at the end."""


@pytest.mark.parametrize("name", ACTS)
def test_example(performances: dict[str, Future[None]], name: str) -> None:
    """The act of this name; its docstring says what is shown."""
    performances[name].result()


def test_every_example_is_tested() -> None:
    """A new example needs an act here."""
    tested = Path(__file__).read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f'"{path.name}"' not in tested] == []
