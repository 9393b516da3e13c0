"""TwiML documents."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.exceptions import ConfigurationError
from voice_runtime.transports import twilio_twiml as twiml

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
EXPECTED: dict[str, str] = {vector["name"]: vector["xml"] for vector in VECTORS["twiml"]}

ANY_TEXT = st.text(
    st.characters() | st.sampled_from("\x00\x0b\x1b\ufffe\uffff\ud800\udfff<>&\"'\r\n\t]"), max_size=40
)


def survivors(text: str) -> str:
    """What XML 1.0 can carry of ``text``, decided character by character from the standard's production."""
    return "".join(
        character
        for character in text
        if character in "\t\n\r"
        or 0x20 <= ord(character) <= 0xD7FF
        or 0xE000 <= ord(character) <= 0xFFFD
        or ord(character) >= 0x10000
    )


def as_parsed(text: str) -> str:
    """Line ends in element content as a parser reports them (XML 1.0 section 2.11)."""
    return survivors(text).replace("\r\n", "\n").replace("\r", "\n")


def test_the_published_documents() -> None:
    """The documents equal the recorded output of Twilio's SDK byte for byte."""
    assert (
        twiml.connect_stream("wss://voice.example.com/media", {"session": 'a&b"<'})
        == (EXPECTED["connect stream + hangup"])
    )
    assert twiml.reject("busy") == EXPECTED["reject"]
    assert twiml.play_digits("1w2", "https://v.example.com/resume") == EXPECTED["send digits then resume"]
    came = twiml.dial("+4930123456", action="https://v.example.com/after-dial", caller_id="+15005550006", timeout=20)
    assert came == EXPECTED["cold transfer with return"]


def test_a_stream_is_followed_by_hangup_or_by_the_action() -> None:
    """Without an action the call ends with the stream; with one, the action decides; there is never a pause."""
    ended = ElementTree.fromstring(twiml.connect_stream("wss://h/voice"))
    assert [verb.tag for verb in ended] == ["Connect", "Hangup"]
    decided = ElementTree.fromstring(
        twiml.connect_stream("wss://h/voice", action="https://h/next?a=1&b=2", status_callback="https://h/s")
    )
    assert [verb.tag for verb in decided] == ["Connect"]
    assert decided[0].attrib == {"action": "https://h/next?a=1&b=2"}
    assert decided[0][0].attrib == {"url": "wss://h/voice", "statusCallback": "https://h/s"}


@given(name=ANY_TEXT, value=ANY_TEXT, path=ANY_TEXT)
def test_whatever_the_parameters_the_document_is_xml(name: str, value: str, path: str) -> None:
    """Names, values and URLs survive the way through an XML parser, without what XML cannot carry."""
    if not survivors(name) or "?" in path:
        with pytest.raises(ConfigurationError):
            twiml.connect_stream("wss://h/" + path, {name: value})
        return
    root = ElementTree.fromstring(twiml.connect_stream("wss://h/" + path, {name: value}, action="https://a/" + value))
    stream = root[0][0]
    assert stream[0].attrib == {"name": survivors(name), "value": survivors(value)}
    assert stream.attrib == {"url": survivors("wss://h/" + path)}
    assert root[0].attrib == {"action": survivors("https://a/" + value)}


@given(text=ANY_TEXT)
def test_whatever_is_said_the_document_is_xml(text: str) -> None:
    """Said text survives the way through an XML parser, without what XML cannot carry."""
    root = ElementTree.fromstring(twiml.say_and_hangup(text, language=text, voice="Polly.Joanna"))
    assert [verb.tag for verb in root] == ["Say", "Hangup"]
    assert (root[0].text or "") == as_parsed(text)
    assert root[0].attrib["voice"] == "Polly.Joanna"


def test_markup_in_text_stays_text() -> None:
    """A caller's name cannot inject a verb."""
    root = ElementTree.fromstring(twiml.say_and_hangup("</Say><Dial>+1</Dial>"))
    assert [element.tag for element in root.iter()] == ["Response", "Say", "Hangup"]


def test_a_query_string_is_refused() -> None:
    """Twilio strips the query of a stream's URL, so it is refused here."""
    with pytest.raises(ConfigurationError, match="query string"):
        twiml.connect_stream("wss://h/voice?token=x")


def test_the_length_of_a_parameter_is_limited() -> None:
    """Name and value together stay below 500 characters; the error says how long they are, not what they hold."""
    assert "v" * 496 in twiml.connect_stream("wss://h/v", {"abc": "v" * 496})
    with pytest.raises(ConfigurationError, match=r"'abc' has 500 characters.*fewer than 500") as caught:
        twiml.connect_stream("wss://h/v", {"abc": "v" * 497})
    assert "vvv" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="needs a name"):
        twiml.connect_stream("wss://h/v", {"\x00": "x"})


def test_the_length_of_inline_twiml_is_limited() -> None:
    """4000 characters pass and 4001 do not."""
    assert twiml.check_inline("x" * 4000) == "x" * 4000
    with pytest.raises(ConfigurationError, match="4001 characters; Twilio takes at most 4000"):
        twiml.check_inline("x" * 4001)


def test_dialling_several_kinds_of_address() -> None:
    """Numbers, SIP addresses and clients become their own elements, each with the whisper."""
    root = ElementTree.fromstring(
        twiml.dial(
            ["+4930123456", "sip:desk@example.com", "client:anna"],
            answer_on_bridge=False,
            whisper_url="https://h/w",
        )
    )
    assert root[0].attrib == {}
    assert [(target.tag, target.text) for target in root[0]] == [
        ("Number", "+4930123456"),
        ("Sip", "sip:desk@example.com"),
        ("Client", "anna"),
    ]
    assert {target.attrib["url"] for target in root[0]} == {"https://h/w"}


def test_the_small_documents() -> None:
    """Hanging up, rejecting and redirecting are one verb each."""
    assert [verb.tag for verb in ElementTree.fromstring(twiml.hangup())] == ["Hangup"]
    assert ElementTree.fromstring(twiml.reject())[0].attrib == {"reason": "rejected"}
    redirect = ElementTree.fromstring(twiml.redirect("https://h/next?a=1&b=2"))[0]
    assert (redirect.tag, redirect.text) == ("Redirect", "https://h/next?a=1&b=2")


def test_what_twilio_would_not_understand_is_refused() -> None:
    """A reason or keys that do not exist are refused before a call depends on them."""
    with pytest.raises(ValueError, match="'rejected' or 'busy'"):
        twiml.reject("later")
    for digits in ("", "12x", "1 2", "1\n"):
        with pytest.raises(ValueError, match="expected keys"):
            twiml.play_digits(digits, "https://h")


def test_the_sdk_is_imported_when_a_document_is_written() -> None:
    """Importing the module does not import Twilio's SDK."""
    script = "import sys, voice_runtime.transports.twilio_twiml; sys.exit('twilio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
