"""TwiML as Twilio reads it: a document becomes verbs, and what is wrong with it becomes entries of the debugger.

Pure. https://www.twilio.com/docs/voice/twiml and the error dictionary, https://www.twilio.com/docs/api/errors.
"""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit, urlunsplit
from xml.etree import ElementTree

import msgspec

__all__ = ["Problem", "StreamOrder", "Verb", "parse_twiml", "read_number", "read_stream", "resolve"]

_MAX_BYTES = 64 * 1024
_MAX_PARAMETER = 500
_VERBS = frozenset(
    {"Connect", "Dial", "Enqueue", "Gather", "Hangup", "Leave", "Message", "Pause", "Play", "Record"}
) | frozenset({"Redirect", "Refer", "Reject", "Say", "Start", "Stop"})


class Problem(msgspec.Struct, frozen=True):
    """An entry of the debugger. ``fatal``: the document cannot be executed."""

    code: int
    message: str
    fatal: bool = False


class Verb(msgspec.Struct, frozen=True):
    """An element: its name, attributes, text and children."""

    name: str
    attributes: dict[str, str]
    text: str
    children: tuple[Verb, ...]


class StreamOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A ``<Stream>`` that can be connected. ``url`` is without its query, as Twilio connects to it."""

    url: str
    name: str
    track: str
    parameters: dict[str, str]
    status_callback: str
    status_callback_method: str


def resolve(base: str, url: str) -> str:
    """A URL in a document, which may be relative to the document's own; nothing stays nothing."""
    return urljoin(base, url) if base and url else url


def parse_twiml(body: bytes) -> tuple[list[Verb], list[Problem]]:
    """The verbs to execute, in order, and what is wrong. With a fatal problem there are no verbs."""
    if len(body) > _MAX_BYTES:
        return [], [Problem(11750, f"expected at most 64 kB of TwiML; {len(body)} bytes came", fatal=True)]
    try:
        root = ElementTree.fromstring(body)
    except ElementTree.ParseError as error:
        return [], [Problem(12100, f"expected an XML document: {error}", fatal=True)]
    if root.tag != "Response":
        return [], [Problem(12100, f"expected <Response> as the root; <{root.tag}> came", fatal=True)]
    verbs: list[Verb] = []
    problems: list[Problem] = []
    for element in root:
        if element.tag in _VERBS:
            verbs.append(_verb(element))
        else:
            problems.append(Problem(12200, f"<{element.tag}> is not a verb (names are case-sensitive); skipped"))
    return verbs, problems


def _verb(element: ElementTree.Element) -> Verb:
    return Verb(
        name=str(element.tag),
        attributes=dict(element.attrib),
        text=(element.text or "").strip(),
        children=tuple(_verb(child) for child in element),
    )


def read_number(verb: Verb, name: str, default: float) -> float | Problem:
    """A number among the attributes: not negative, and not enormous."""
    try:
        value = float(verb.attributes.get(name, default))
        if not 0 <= value < 1e6:
            raise ValueError("out of range")
    except ValueError:
        return Problem(12200, f"expected a number as {name} of <{verb.name}>; {verb.attributes[name]!r} came")
    return value


def read_stream(
    stream: Verb, *, document_url: str, bidirectional: bool, insecure_ok: bool
) -> tuple[StreamOrder | None, list[Problem]]:
    """Check a ``<Stream>``; None when Twilio would not connect it.

    Args:
        document_url: what a relative URL is relative to; empty for inline TwiML.
        bidirectional: it stands in ``<Connect>``.
        insecure_ok: accept ``ws`` to this machine.
    """
    problems: list[Problem] = []
    url = stream.attributes.get("url", "")
    if url and "://" not in url and document_url:
        url = resolve(document_url, url)
        url = url.replace("https://", "wss://", 1).replace("http://", "ws://", 1)
    try:
        parts = urlsplit(url)
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    except ValueError as error:
        return None, [Problem(31923, f"<Stream> url {url!r}: {error}")]
    if not parts.netloc:
        return None, [Problem(31923, f"expected an absolute wss:// url in <Stream>; {url!r} came")]
    if parts.scheme != "wss" and not (parts.scheme == "ws" and local and insecure_ok):
        return None, [Problem(31922, f"expected a wss:// url in <Stream>; {url!r} came")]
    if parts.query:
        problems.append(Problem(31920, f"<Stream> urls have no query; {parts.query!r} was dropped, use <Parameter>"))
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    track = stream.attributes.get("track", "inbound_track")
    allowed = ("inbound_track",) if bidirectional else ("inbound_track", "outbound_track", "both_tracks")
    if track not in allowed:
        return None, [*problems, Problem(31941, f"expected track {' or '.join(allowed)}; {track!r} came")]
    parameters: dict[str, str] = {}
    for child in stream.children:
        if child.name != "Parameter":
            problems.append(Problem(12200, f"expected <Parameter> in <Stream>; <{child.name}> came"))
            continue
        name, value = child.attributes.get("name", ""), child.attributes.get("value", "")
        if len(name) + len(value) >= _MAX_PARAMETER:
            problems.append(
                Problem(12200, f"<Parameter> {name!r}: expected name and value below 500 characters together")
            )
            continue
        parameters[name] = value
    return (
        StreamOrder(
            url=url,
            name=stream.attributes.get("name", ""),
            track=track,
            parameters=parameters,
            status_callback=resolve(document_url, stream.attributes.get("statusCallback", "")),
            status_callback_method=stream.attributes.get("statusCallbackMethod", "POST"),
        ),
        problems,
    )
