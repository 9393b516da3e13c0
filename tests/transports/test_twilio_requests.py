"""Webhook requests as they arrive: who signed them, what they say, and what is never read."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from voice_runtime.config import Settings
from voice_runtime.transports.twilio_requests import MAX_BODY_BYTES, signed_fields
from voice_runtime.transports.twilio_signature import sign

TOKEN = "0123456789abcdef0123456789abcdef"
BASE = "https://voice.example.com"
SETTINGS = Settings(voice_public_url=BASE, twilio_auth_token=TOKEN)
FORM_TYPE = "application/x-www-form-urlencoded; charset=UTF-8"
VOICE = {"CallSid": "CA1", "From": "+358401234567", "To": "+15005550006", "FromCity": ""}


def request(
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = "/voice",
    query: str = "",
    content_type: str = FORM_TYPE,
    signature: str | None = None,
    headers: dict[str, str] | None = None,
    chunk: int = 8192,
    lost_after: int | None = None,
    **scope: Any,
) -> Request:
    """What a server hands to the app. ``lost_after``: the client is gone after so many messages."""
    every = {"host": "10.0.0.5:8080", "content-type": content_type, **(headers or {})}
    if signature is not None:
        every["x-twilio-signature"] = signature
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]
    messages = [
        {"type": "http.request", "body": piece, "more_body": n + 1 < len(pieces)} for n, piece in enumerate(pieces)
    ]
    if lost_after is not None:
        messages = [*messages[:lost_after], {"type": "http.disconnect"}]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    made = Request(
        {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": quote(path).encode(),
            "query_string": query.encode("latin-1"),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in every.items()],
            "server": ("10.0.0.5", 8080),
            **scope,
        },
        receive,
    )
    made.scope["left"] = messages
    return made


def read(came: Request, settings: Settings = SETTINGS, *, insecure: bool = False) -> dict[str, str] | None:
    return asyncio.run(signed_fields(came, settings, insecure=insecure))


def form(fields: Any, *, url: str = f"{BASE}/voice", token: str = TOKEN, **options: Any) -> Request:
    """A form that Twilio has signed."""
    pairs = list(fields.items()) if isinstance(fields, dict) else fields
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return request(urlencode(pairs).encode(), signature=sign(url, grouped, token), **options)


def json_request(
    value: Any, *, body: bytes | None = None, digest: str | None = None, token: str = TOKEN, **options: Any
) -> Request:
    """A JSON body whose hash stands in the URL."""
    raw = json.dumps(value).encode() if body is None else body
    query = f"bodySHA256={hashlib.sha256(raw).hexdigest() if digest is None else digest}"
    return request(
        raw,
        query=query,
        signature=sign(f"{BASE}/voice?{query}", None, token),
        content_type=options.pop("content_type", "application/json"),
        **options,
    )


# -- forms --------------------------------------------------------------------------------------------------------


def test_a_signed_form_is_read() -> None:
    """Blank fields too, for they are part of what is signed."""
    assert read(form(VOICE)) == VOICE


def test_the_first_of_a_repeated_field_counts() -> None:
    """All of them are signed."""
    pairs = [("From", "+358401111111"), ("From", "+358402222222"), ("From", "+358401111111")]
    assert read(form(pairs)) == {"From": "+358401111111"}


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=8))
def test_any_field_comes_through(fields: dict[str, str]) -> None:
    """Emoji, control characters, NUL: as they were sent, or not at all."""
    try:
        urlencode(fields)
    except UnicodeEncodeError:
        return
    assert read(form(fields)) == fields


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_a_body_in_pieces_is_one_body(chunk: int) -> None:
    """However the network cuts it."""
    assert read(form(VOICE, chunk=chunk)) == VOICE


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body + b"&From=%2B1900",
        lambda body: body.replace(b"CA1", b"CA2"),
        lambda body: b"",
        lambda body: b"\xff\xfe" + body,
        lambda body: body + b"&X=%FF",
    ],
)
def test_a_changed_body_is_refused(change: Any, caplog: pytest.LogCaptureFixture) -> None:
    """One field more, another value, none, no text."""
    signature = sign(f"{BASE}/voice", VOICE, TOKEN)
    assert read(request(change(urlencode(VOICE).encode()), signature=signature)) is None
    assert "358401234567" not in caplog.text
    caplog.clear()


@pytest.mark.parametrize("signature", [None, "", "AAAA", "not base64 ä", sign(f"{BASE}/voice", VOICE, "f" * 32)])
def test_what_is_not_signed_is_refused(signature: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """None, forged, or with another account's token."""
    assert read(request(urlencode(VOICE).encode(), signature=signature)) is None
    assert "Refused a request as not signed by Twilio" in caplog.text
    caplog.clear()


def test_another_address_is_another_request(caplog: pytest.LogCaptureFixture) -> None:
    """What was signed for one webhook opens no other."""
    signature = sign(f"{BASE}/voice/status/one", VOICE, TOKEN)
    assert read(request(urlencode(VOICE).encode(), path="/voice/status/two", signature=signature)) is None
    caplog.clear()


def test_rotated_tokens_and_shared_keys() -> None:
    """Both tokens while one is rotated; a SharedKey by the id that the request names."""
    settings = Settings(
        voice_public_url=BASE, twilio_auth_token=f"{'e' * 32},{TOKEN}", twilio_shared_keys={"one": "s" * 32}
    )
    assert read(form(VOICE), settings) == VOICE
    signature = sign(f"{BASE}/voice", VOICE, "s" * 32, algorithm="HMAC_SHA256")
    named = {"x-twilio-webhooks-signature-settings": "key=one,algorithm=HMAC_SHA256"}
    assert read(request(urlencode(VOICE).encode(), signature=signature, headers=named), settings) == VOICE
    assert read(request(urlencode(VOICE).encode(), signature=signature), settings) is None


def test_without_anything_to_check_with_nothing_is_read(caplog: pytest.LogCaptureFixture) -> None:
    """Neither without a token nor without an address; the log names the variable."""
    assert read(form(VOICE), Settings(voice_public_url=BASE)) is None
    assert "TWILIO_AUTH_TOKEN" in caplog.text
    assert read(form(VOICE), Settings(twilio_auth_token=TOKEN)) is None
    assert "VOICE_STREAM_URL" in caplog.text
    caplog.clear()


# -- behind proxies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-forwarded-proto": "http", "x-forwarded-host": "evil.example.com"},
        {"host": "localhost"},
        {"forwarded": "host=evil.example.com;proto=http"},
    ],
)
def test_the_public_url_of_the_settings_wins(headers: dict[str, str]) -> None:
    """Whatever a proxy says the host was."""
    assert read(form(VOICE, headers=headers)) == VOICE


def test_a_forged_host_does_not_make_a_signature_good(caplog: pytest.LogCaptureFixture) -> None:
    """Signed with our token, but for somebody else's server."""
    elsewhere = form(VOICE, url="https://evil.example.com/voice", headers={"x-forwarded-host": "evil.example.com"})
    assert read(elsewhere) is None
    caplog.clear()


def test_below_a_prefix() -> None:
    """A proxy that strips it, and one that passes it on as root_path."""
    settings = Settings(voice_public_url=f"{BASE}/calls", twilio_auth_token=TOKEN)
    assert read(form(VOICE, url=f"{BASE}/calls/voice"), settings) == VOICE
    mounted = form(VOICE, url=f"{BASE}/calls/voice", path="/calls/voice", root_path="/calls")
    assert read(mounted, settings) == VOICE


def test_the_stream_url_will_do() -> None:
    """Where it is the only one, the webhooks are below the same host."""
    settings = Settings(voice_stream_url="wss://voice.example.com", twilio_auth_token=TOKEN)
    assert read(form(VOICE), settings) == VOICE


# -- other forms of the same --------------------------------------------------------------------------------------


def test_numbers_configured_for_get() -> None:
    """The fields stand in the query, which is signed as it came."""
    query = urlencode(VOICE)
    signature = sign(f"{BASE}/voice?{query}", None, TOKEN)
    assert read(request(method="GET", query=query, signature=signature)) == VOICE
    assert read(request(method="GET", query=query + "&X=1", signature=signature)) is None
    assert read(request(b"X=1", method="GET", query=query, signature=signature)) == VOICE


def test_json_with_its_hash() -> None:
    """Values that are no text are theirs in JSON."""
    value = {"CallSid": "CA1", "SequenceNumber": 3, "Known": True, "Nothing": None, "Tags": ["a", {"b": 1}]}
    assert read(json_request(value)) == {
        "CallSid": "CA1",
        "SequenceNumber": "3",
        "Known": "true",
        "Nothing": "null",
        "Tags": '["a",{"b":1}]',
    }
    assert read(json_request({}, body=b"")) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"digest": "0" * 64},
        {"digest": ""},
        {"token": "f" * 32},
        {"content_type": FORM_TYPE},
        {"content_type": "text/plain"},
    ],
)
def test_json_that_nothing_vouches_for(wrong: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """Another body's hash, none, another's signature, or called something else."""
    assert read(json_request({"CallSid": "CA1"}, **wrong)) is None
    caplog.clear()


def test_a_form_whose_hash_would_be_good_is_no_json(caplog: pytest.LogCaptureFixture) -> None:
    """The content type decides how a request is checked, and neither check is the weaker one."""
    raw = json_request({"CallSid": "CA1"}, content_type="application/x-www-form-urlencoded")
    assert read(raw) is None
    signed_form = form(VOICE, content_type="application/json")
    assert read(signed_form) is None
    caplog.clear()


@pytest.mark.parametrize(
    "body",
    [b"[]", b'"text"', b"null", b"7", b"{", b"\xff", b'{"a": "\xff"}', b"{}}", b'{"a": NaN}', b"[" * 50_000],
)
def test_json_that_is_none(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Signed, and yet refused: not an object, not whole, not UTF-8, too deep."""
    assert read(json_request(None, body=body)) is None
    assert "cannot be read" in caplog.text
    caplog.clear()


# -- what is never read -------------------------------------------------------------------------------------------


def test_a_body_that_is_too_large_is_not_read_to_its_end(caplog: pytest.LogCaptureFixture) -> None:
    """Not even when it is signed: sixty-four kilobytes are the most."""
    fits = {"Body": "x" * (MAX_BODY_BYTES - len("Body="))}
    assert read(form(fits)) == fits
    came = form({"Body": "x" * (MAX_BODY_BYTES * 10)})
    assert read(came) is None
    assert len(came.scope["left"]) > 60
    assert f"larger than {MAX_BODY_BYTES} bytes" in caplog.text
    caplog.clear()


def test_a_client_that_goes_away_leaves_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    """In the middle of its body: nothing to answer, nothing to report."""
    assert read(form(VOICE, chunk=10, lost_after=2)) is None
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]
    caplog.clear()


def test_too_many_fields(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of them are not Twilio's."""
    assert read(form([(f"f{n}", "") for n in range(2000)])) is None
    caplog.clear()


# -- a line on one's own machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (urlencode(VOICE).encode(), VOICE),
        (b"X=%FF%41", {"X": "\ufffdA"}),
        (b"\xff=1", None),
        (b"", {}),
        (b"&&=&a", {"": "", "a": ""}),
    ],
)
def test_insecure_takes_any_request(body: bytes, fields: dict[str, str] | None) -> None:
    """Without settings or signature; what cannot be read is refused all the same."""
    assert read(request(body), Settings(), insecure=True) == fields


@given(st.binary(max_size=200), st.sampled_from([FORM_TYPE, "application/json", "", "a/b;c"]))
def test_nothing_raises(body: bytes, content_type: str) -> None:
    """Whatever comes, signed or not: fields or None."""
    came = read(request(body, content_type=content_type), Settings(), insecure=True)
    assert came is None or all(isinstance(value, str) for value in came.values())
    assert read(request(body, content_type=content_type, signature="AAAA")) is None


@pytest.mark.parametrize("query", ["X=\xff", "a=%FF", "=", "&"])
def test_odd_queries(query: str) -> None:
    """Of a GET: read, or refused."""
    came = read(request(method="GET", query=query), Settings(), insecure=True)
    assert came is None or isinstance(came, dict)
