"""Documents on their way from the app: fetched, with the fallback when that fails, and read."""

from __future__ import annotations

import asyncio

import msgspec

from .fake_twilio_exchange import Exchange
from .fake_twilio_records import CallRecord, Source
from .fake_twilio_twiml import Problem, Verb, parse_twiml
from .fake_twilio_webhooks import Form, WebhookFailure

__all__ = ["Document", "Documents"]

_XML_TYPES = ("text/xml", "application/xml", "text/html", "application/xhtml+xml")


class Document(msgspec.Struct, frozen=True):
    """What to do, and the URL that other URLs in it are relative to: empty for inline TwiML."""

    url: str
    verbs: list[Verb]


class Documents:
    """Belongs to the fake's loop."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def get(self, call: CallRecord, source: Source) -> Document | None:
        """None, and an entry in the debugger, when it cannot be had."""
        if source.twiml is not None:
            result = self._parse(call, "", source.twiml.encode())
        else:
            if source is not call.first:
                # Also lets time pass in documents that redirect to each other for ever.
                await asyncio.sleep(self._exchange.timings.webhook_ms / 1000)
            result = await self._fetch(call, source.url, source.method, source.extra)
            if isinstance(result, Problem) and source.fallback_url:
                self._exchange.report(call, result)
                extra = [*source.extra, ("ErrorCode", str(result.code)), ("ErrorUrl", source.url)]
                result = await self._fetch(call, source.fallback_url, source.fallback_method, extra)
        if isinstance(result, Problem):
            self._exchange.report(call, result)
            return None
        return result

    async def tell(self, call: CallRecord, url: str, method: str, extra: Form) -> None:
        """Request a document that is not used any more."""
        form = self._exchange.voice_form(call, extra)
        await self._exchange.webhooks.twiml(url, form, method=method, sid=call.sid)

    async def _fetch(self, call: CallRecord, url: str, method: str, extra: Form) -> Document | Problem:
        form = self._exchange.voice_form(call, extra)
        answer = await self._exchange.webhooks.twiml(url, form, method=method, sid=call.sid)
        if isinstance(answer, WebhookFailure):
            return Problem(answer.code, answer.message, fatal=True)
        kind = answer.content_type.split(";")[0].strip().lower()
        if kind == "text/plain":
            return Document(url, [Verb("Say", {}, answer.body.decode("utf-8", "replace"), ())])
        if kind.startswith("audio/"):
            return Document(url, [Verb("Play", {}, url, ())])
        if kind not in _XML_TYPES:
            return Problem(12300, f"expected text/xml from {url}; {kind or 'no content type'} came", fatal=True)
        return self._parse(call, url, answer.body)

    def _parse(self, call: CallRecord, url: str, body: bytes) -> Document | Problem:
        verbs, problems = parse_twiml(body)
        for problem in problems:
            if problem.fatal:
                return problem
            self._exchange.report(call, problem)
        return Document(url, verbs)
