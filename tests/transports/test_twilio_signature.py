"""Whose request it is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice_runtime.transports.twilio_signature import SignatureValidator, public_url, public_url_of_scope, sign

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent.parent / "data" / "twilio_vectors.json").read_text(encoding="utf-8")
)
TOKEN = "test-auth-token-0123456789abcdef"
WSS = "wss://voice.example.com/media"

# The SDK's own validation knows 443 for https only; the vectors tell what it says. Here wss has the port 443 too.
BETTER_THAN_THE_SDK = {"ws handshake, signed with :443, url has no port"}


def independent(url: str, token: str, fields: dict[str, list[str]] | None = None, algorithm: str = "sha1") -> str:
    """The rule of Twilio's documentation in four lines."""
    text = url + "".join(name + value for name in sorted(fields or {}) for value in sorted(set((fields or {})[name])))
    return base64.b64encode(hmac.new(token.encode(), text.encode(), algorithm).digest()).decode()


@pytest.mark.parametrize("vector", VECTORS["signatures"], ids=lambda vector: vector["name"])
def test_the_published_examples(vector: dict[str, Any]) -> None:
    """Every vector is judged as expected, whatever its kind."""
    headers = {"X-Twilio-Signature": vector["signature"]}
    validator = SignatureValidator([vector["auth_token"]])
    if vector.get("algorithm") == "HMAC_SHA256":
        headers["X-Twilio-Webhooks-Signature-Settings"] = "key=webhooks_sharedkey_x,algorithm=HMAC_SHA256"
        validator = SignatureValidator([], {"webhooks_sharedkey_x": vector["auth_token"]})
    body = vector.get("body", "").encode()
    match vector["kind"]:
        case "form":
            came = validator.valid_form(vector["url"], body, headers)
        case "json":
            came = validator.valid_json(vector["url"], body, headers)
        case "websocket" | "websocket-query":
            came = validator.valid_handshake(vector["url"], headers)
        case other:
            pytest.fail(f"unknown kind {other!r}")
    assert came is (vector["valid"] or vector["name"] in BETTER_THAN_THE_SDK)


@pytest.mark.parametrize(
    "vector", [v for v in VECTORS["signatures"] if v["valid"] and v["kind"] != "json"], ids=lambda v: v["name"]
)
def test_signing_gives_the_published_signatures(vector: dict[str, Any]) -> None:
    """What the fake Twilio signs is what Twilio signs."""
    params = vector.get("params") or parse_qs(vector.get("body", ""), keep_blank_values=True)
    algorithm = vector.get("algorithm", "HMAC_SHA1")
    url = vector.get("url_to_sign", vector["url"])
    assert sign(url, params, vector["auth_token"], algorithm=algorithm) == vector["signature"]


def test_signing_knows_two_algorithms() -> None:
    """Another algorithm is the caller's mistake."""
    with pytest.raises(ValueError, match="HMAC_MD5"):
        sign(WSS, None, TOKEN, algorithm="HMAC_MD5")


@given(
    fields=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8),
        st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=3),
        max_size=5,
    ),
    query=st.dictionaries(st.text("abc", min_size=1), st.text("xyz&= %", max_size=5), max_size=2),
)
def test_any_form_signed_by_the_rule_is_accepted(fields: dict[str, list[str]], query: dict[str, str]) -> None:
    """Blank values, repeated names, any characters and a query are validated as an independent signer signs them."""
    url = "https://voice.example.com/x" + (f"?{urlencode(query)}" if query else "")
    signature = independent(url, TOKEN, fields)
    assert sign(url, fields, TOKEN) == signature
    body = urlencode(fields, doseq=True).encode()
    validator = SignatureValidator([TOKEN])
    assert validator.valid_form(url, body, {"x-twilio-signature": signature})
    assert not validator.valid_form(url, body + b"&added=1", {"x-twilio-signature": signature})


@pytest.mark.parametrize(
    ("signed", "seen"),
    [
        ("wss://h.example.com/v", "wss://h.example.com:443/v"),
        ("wss://h.example.com:443/v", "wss://h.example.com/v"),
        ("ws://h.example.com:80/v", "ws://h.example.com/v"),
        ("https://h.example.com:443/v", "https://h.example.com/v"),
        ("https://h.example.com/v", "https://h.example.com:8443/v"),
        ("https://user:pass@h.example.com:8443/v", "https://user:pass@h.example.com:8443/v"),
        ("https://user:pass@h.example.com/v", "https://user:pass@h.example.com:8443/v"),
        ("wss://[2001:db8::1]/v", "wss://[2001:db8::1]:8443/v"),
        ("wss://[2001:db8::1]:443/v", "wss://[2001:db8::1]/v"),
        ("https://h.example.com/v?", "https://h.example.com/v?"),
        ("https://h.example.com/v", "HTTPS://h.example.com/v"),
        ("https://h.example.com/v", "https://h.example.com/v#rc=3&rp=all"),
    ],
)
def test_the_spelling_of_ports_does_not_matter(signed: str, seen: str) -> None:
    """A default port may be written or not, on either side; credentials, IPv6 and fragments do not confuse it."""
    headers = {"X-Twilio-Signature": independent(signed, TOKEN)}
    assert SignatureValidator([TOKEN]).valid_form(seen, b"", headers)


@pytest.mark.parametrize(
    "seen",
    [
        "https://voice.example.com/media",
        "ws://voice.example.com/media",
        "wss://voice.example.com/media/",
        "wss://voice.example.com/Media",
        "wss://other.example.com/media",
        "wss://voice.example.com:80/media2",
        "wss://voice.example.com/media?x=1",
        "media",
        "",
        "wss://[/media",
    ],
)
def test_another_url_is_another_request(seen: str) -> None:
    """Scheme, host, path, slash and query all count; nonsense is refused, not raised."""
    headers = {"X-Twilio-Signature": independent(WSS, TOKEN)}
    assert not SignatureValidator([TOKEN]).valid_handshake(seen, headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Twilio-Signature": ""},
        {"X-Twilio-Signature": "\u00e9"},
        {"X-Twilio-Signature": "A" * 28},
        {"X-Twilio-Signature": independent(WSS, "another token")},
        [(b"x-twilio-signature", independent(WSS, TOKEN).encode()), (b"X-Twilio-Signature", b"x")],
    ],
)
def test_missing_wrong_and_repeated_signatures_are_refused(headers: Any) -> None:
    """No signature, a wrong one, or two of them: refused."""
    validator = SignatureValidator([TOKEN])
    assert not validator.valid_handshake(WSS, headers)
    assert not validator.valid_form(WSS, b"A=1", headers)
    assert not validator.valid_json(f"{WSS}?bodySHA256={hashlib.sha256(b'').hexdigest()}", b"", headers)


def test_headers_of_an_asgi_scope() -> None:
    """The list of byte pairs that an ASGI server gives is taken as it is."""
    headers = [(b"host", b"h"), (b"x-twilio-signature", independent(WSS, TOKEN).encode())]
    assert SignatureValidator([TOKEN]).valid_handshake(WSS, headers)


def test_any_token_of_a_rotation_is_accepted() -> None:
    """While tokens are rotated requests may be signed with either."""
    validator = SignatureValidator(["old", "new", ""])
    for token in ("old", "new"):
        assert validator.valid_handshake(WSS, {"x-twilio-signature": independent(WSS, token)})
    assert not validator.valid_handshake(WSS, {"x-twilio-signature": independent(WSS, "")})


def test_without_a_token_everything_is_refused() -> None:
    """An unconfigured server is closed, also to a signature made with an empty token."""
    for validator in (SignatureValidator([]), SignatureValidator([""])):
        assert not validator.valid_handshake(WSS, {"x-twilio-signature": independent(WSS, "")})


def test_one_token_as_a_string_is_a_mistake() -> None:
    """A string is a sequence of letters; it is refused instead of being taken as that."""
    with pytest.raises(TypeError, match="sequence of auth tokens"):
        SignatureValidator("token")


@pytest.mark.parametrize(
    "settings",
    [
        "key=unknown,algorithm=HMAC_SHA256",
        "key=one,algorithm=HMAC_SHA1",
        "key=one,algorithm=HMAC_MD5",
        "key=one,algorithm=hmac_sha1",
        "key=one",
        "algorithm=HMAC_SHA256",
        "algorithm=HMAC_SHA1",
        "key=one,key=two,algorithm=HMAC_SHA256",
        "key=one,algorithm=HMAC_SHA1,algorithm=HMAC_SHA256",
        "",
    ],
)
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("secret", ["shared-secret", TOKEN, ""])
def test_the_request_cannot_choose_the_key_or_the_algorithm(settings: str, algorithm: str, secret: str) -> None:
    """A settings header that is not exactly a known key with SHA-256 refuses, whatever signed the request."""
    validator = SignatureValidator([TOKEN], {"one": "shared-secret"})
    headers = {
        "X-Twilio-Webhooks-Signature-Settings": settings,
        "X-Twilio-Signature": independent(WSS, secret, algorithm=algorithm),
    }
    assert not validator.valid_handshake(WSS, headers)


def test_a_shared_key_is_not_an_auth_token() -> None:
    """A shared key needs its header and SHA-256; without the header only auth tokens count."""
    validator = SignatureValidator([TOKEN], {"one": "shared-secret"})
    header = {"x-twilio-webhooks-signature-settings": "key=one,algorithm=HMAC_SHA256"}
    good = independent(WSS, "shared-secret", algorithm="sha256")
    assert validator.valid_handshake(WSS, {**header, "x-twilio-signature": good})
    assert not validator.valid_handshake(WSS, {"x-twilio-signature": good})
    assert not validator.valid_handshake(WSS, {**header, "x-twilio-signature": independent(WSS, "shared-secret")})
    assert not validator.valid_handshake(WSS, {"x-twilio-signature": independent(WSS, "shared-secret")})


def test_a_json_body_needs_its_hash_in_the_url() -> None:
    """Without bodySHA256, or with two of them, nothing vouches for the body."""
    body = b'{"a": "\xc3\xa4"}'
    digest = hashlib.sha256(body).hexdigest()
    validator = SignatureValidator([TOKEN])
    for query, expected in (
        (f"bodySHA256={digest}", True),
        (f"x=&bodySHA256={digest.upper()}", True),
        ("x=1", False),
        (f"bodySHA256={digest}&bodySHA256={digest}", False),
        ("bodySHA256=", False),
    ):
        url = f"https://voice.example.com/json?{query}"
        headers = {"x-twilio-signature": independent(url, TOKEN)}
        assert validator.valid_json(url, body, headers) is expected, query
        assert not validator.valid_json(url, body + b" ", headers), query


@given(url=st.text(max_size=60), body=st.binary(max_size=60), signature=st.text(max_size=40), settings=st.text())
def test_nothing_a_stranger_sends_raises(url: str, body: bytes, signature: str, settings: str) -> None:
    """Arbitrary requests are refused, never raised."""
    validator = SignatureValidator([TOKEN], {"one": "s"})
    for headers in (
        {"x-twilio-signature": signature},
        {"x-twilio-signature": signature, "x-twilio-webhooks-signature-settings": settings},
    ):
        assert not validator.valid_form(url, body, headers)
        assert not validator.valid_json(url, body, headers)
        assert not validator.valid_handshake(url, headers)


def test_too_many_parameters_are_refused() -> None:
    """A form or query with more fields than Twilio ever sends costs no time, even when it is signed."""
    fields = "&".join(f"a{i}=" for i in range(5000))
    url = f"https://h/x?{fields}&bodySHA256={hashlib.sha256(b'').hexdigest()}"
    validator = SignatureValidator([TOKEN])
    assert not validator.valid_form("https://h/x", fields.encode(), {"x-twilio-signature": "x"})
    assert not validator.valid_json(url, b"", {"x-twilio-signature": independent(url, TOKEN)})
    assert not validator.valid_handshake(f"wss://h/x?{fields}", {"x-twilio-signature": "x"})


def test_text_that_cannot_be_encoded_is_refused() -> None:
    """A lone surrogate in the URL or the signature cannot have been signed."""
    validator = SignatureValidator([TOKEN])
    assert not validator.valid_handshake("wss://h/\ud800", {"x-twilio-signature": "x"})
    assert not validator.valid_handshake("wss://h/x?a=\udfff", {"x-twilio-signature": "\ud800"})


def test_two_settings_headers_are_refused() -> None:
    """Two headers that name a key leave open which one counts."""
    header = (b"x-twilio-webhooks-signature-settings", b"key=one,algorithm=HMAC_SHA256")
    signature = independent(WSS, "shared-secret", algorithm="sha256").encode()
    validator = SignatureValidator([], {"one": "shared-secret"})
    assert validator.valid_handshake(WSS, iter([header, (b"x-twilio-signature", signature)]))
    assert not validator.valid_handshake(WSS, [header, header, (b"x-twilio-signature", signature)])


def test_a_refusal_logs_the_url_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """The log shows which URL was used, without credentials, one-time tokens, query, token or signature."""
    url = "wss://user:PASSWORD@voice.example.com/voice/0123456789abcdefTOKEN?q=QUERY\n"
    with caplog.at_level(logging.WARNING):
        SignatureValidator([TOKEN]).valid_handshake(url, {"x-twilio-signature": "SIGNATURE"})
    assert "wss://voice.example.com/voice/...?..." in caplog.text
    assert "VOICE_PUBLIC_URL" in caplog.text
    for secret in ("PASSWORD", "0123456789abcdefTOKEN", "QUERY", "SIGNATURE", TOKEN):
        assert secret not in caplog.text
    assert TOKEN not in repr(SignatureValidator([TOKEN]))


# -- the URL ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["public_url_reconstruction"], ids=lambda vector: vector["expect"])
def test_the_url_is_rebuilt(vector: dict[str, Any]) -> None:
    """Forwarded headers count from trusted proxies only, and a configured base wins over them."""
    scope = vector["scope"]
    came = public_url(
        websocket=scope["type"] == "websocket",
        scheme=scope["scheme"],
        host=scope["host"],
        path=scope["path"],
        query=scope["query"],
        root_path=vector.get("root_path", ""),
        headers=vector["headers"],
        base=vector.get("public_base_url"),
        trusted_proxy=vector.get("trusted_proxy", False),
    )
    assert came == vector["expect"]


@pytest.mark.parametrize(
    ("path", "root_path", "base", "expected"),
    [
        ("/voice", "", None, "https://h/voice"),
        ("/base/voice", "/base", None, "https://h/base/voice"),
        ("/voice", "/base", None, "https://h/base/voice"),
        ("/base/voice", "/base", "https://p/base", "https://p/base/voice"),
        ("/base/voice", "", "wss://p/base/", "https://p/base/voice"),
        ("/voice", "", "https://p/base/", "https://p/base/voice"),
        ("/inner/voice", "/inner", "https://p/outer", "https://p/outer/voice"),
        ("/basement", "", "https://p/base", "https://p/base/basement"),
        ("/voice", "", "http://127.0.0.1:8080", "http://127.0.0.1:8080/voice"),
    ],
)
def test_prefixes_of_the_path(path: str, root_path: str, base: str | None, expected: str) -> None:
    """A prefix that a proxy strips, or does not strip, stands once in the public URL."""
    assert (
        public_url(websocket=False, scheme="https", host="h", path=path, root_path=root_path, base=base) == expected
    )


def test_untrusted_forwarded_headers_do_not_count() -> None:
    """Anyone can send X-Forwarded-Host."""
    headers = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    assert public_url(websocket=True, scheme="ws", host="h", path="/v", headers=headers) == "ws://h/v"


def test_the_url_of_an_asgi_scope() -> None:
    """The path stays percent-encoded and the query is kept as it came."""
    scope: dict[str, Any] = {
        "type": "http",
        "scheme": "http",
        "path": "/a b",
        "raw_path": b"/a%20b",
        "query_string": b"x=%2B1&y=",
        "root_path": "",
        "headers": [(b"host", b"h:8080"), (b"x-forwarded-proto", b"https")],
    }
    assert public_url_of_scope(scope) == "http://h:8080/a%20b?x=%2B1&y="
    assert public_url_of_scope(scope, trusted_proxy=True) == "https://h:8080/a%20b?x=%2B1&y="
    assert public_url_of_scope(scope, "wss://p") == "https://p/a%20b?x=%2B1&y="
    bare = {"type": "websocket", "scheme": "ws", "path": "/v", "headers": [], "server": ("127.0.0.1", 80)}
    assert public_url_of_scope(bare) == "ws://127.0.0.1:80/v"
