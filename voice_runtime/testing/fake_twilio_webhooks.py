"""The requests Twilio makes to an app: signed forms, fifteen seconds, one retry when nobody listens."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import urldefrag, urlencode

import httpx
import msgspec

from ..transports.mock_wire import sign
from .fake_twilio_log import EventLog, LogEntry
from .fake_twilio_network import Network
from .fake_twilio_settings import Faults, Timings

__all__ = ["Form", "WebhookAnswer", "WebhookClient", "WebhookFailure"]

Form: TypeAlias = list[tuple[str, str]]


class WebhookAnswer(msgspec.Struct, frozen=True):
    """A 2xx."""

    status: int
    content_type: str
    body: bytes


class WebhookFailure(msgspec.Struct, frozen=True):
    """No use: 11200 (a status that is not 2xx, or no answer in time), 11205 (no connection), 11210 (no such host)."""

    code: int
    message: str
    status: int | None = None


class WebhookClient:
    """Belongs to the fake's loop."""

    def __init__(
        self,
        network: Network,
        log: EventLog,
        *,
        timings: Callable[[], Timings],
        faults: Callable[[], Faults],
        auth_token: Callable[[], str],
        secondary_auth_token: str,
        shared_key: tuple[str, str],
    ) -> None:
        self._network = network
        self._log = log
        self._timings = timings
        self._faults = faults
        self._auth_token = auth_token
        self._secondary_auth_token = secondary_auth_token
        self._shared_key = shared_key

    def signature_headers(self, url: str, form: Form) -> list[tuple[str, str]]:
        """The headers that prove that a request for ``url`` is Twilio's, or fail to, as the faults say."""
        name = "X-Twilio-Signature"
        match self._faults().signature:
            case "missing":
                return []
            case "wrong":
                return [(name, sign("not-the-token", url, form))]
            case "secondary":
                return [(name, sign(self._secondary_auth_token, url, form))]
            case "shared_key":
                key_id, secret = self._shared_key
                settings = f"key={key_id},algorithm=HMAC_SHA256"
                return [
                    (name, sign(secret, url, form, digest="sha256")),
                    ("X-Twilio-Webhooks-Signature-Settings", settings),
                ]
            case _:
                return [(name, sign(self._auth_token(), url, form))]

    async def twiml(self, url: str, form: Form, *, method: str, sid: str) -> WebhookAnswer | WebhookFailure:
        """A request whose answer is TwiML."""
        return await self._request(url, form, method=method, sid=sid, kind="webhook")

    async def callback(self, url: str, form: Form, *, method: str, sid: str) -> WebhookAnswer | WebhookFailure:
        """A request whose answer does not matter."""
        return await self._request(url, form, method=method, sid=sid, kind="callback")

    async def fetch(self, url: str, *, sid: str) -> WebhookAnswer | WebhookFailure:
        """A recording for ``<Play>``."""
        return await self._request(url, [], method="GET", sid=sid, kind="fetch")

    async def _request(
        self, url: str, form: Form, *, method: str, sid: str, kind: str
    ) -> WebhookAnswer | WebhookFailure:
        url = urldefrag(url).url  # the fragment holds delivery options and is not sent
        method = method.upper()
        if method == "GET" and form:
            url += ("&" if "?" in url else "?") + urlencode(form)
        headers = {
            "User-Agent": "TwilioProxy/1.1",
            "Accept": "*/*",
            "I-Twilio-Idempotency-Token": str(uuid.uuid4()),
            **dict(self.signature_headers(url, form if method == "POST" else [])),
        }
        content = None
        if method == "POST":
            headers["Content-Type"] = "application/x-www-form-urlencoded; charset=UTF-8"
            content = urlencode(form).encode()
        result = await self._once(method, url, headers, content, kind)
        if isinstance(result, WebhookFailure) and result.code in (11205, 11210):
            result = await self._once(method, url, headers, content, kind)
        self._log.add(
            LogEntry(
                at_s=asyncio.get_running_loop().time(),
                kind=kind,
                sid=sid,
                text=f"{method} {url}" + (f": {result.message}" if isinstance(result, WebhookFailure) else ""),
                data={
                    "url": url,
                    "method": method,
                    "form": dict(form),
                    "status": result.status,
                    "answer": result.body.decode("utf-8", "replace") if isinstance(result, WebhookAnswer) else "",
                },
            )
        )
        return result

    async def _once(
        self, method: str, url: str, headers: dict[str, str], content: bytes | None, kind: str
    ) -> WebhookAnswer | WebhookFailure:
        faults = self._faults()
        limit_s = self._timings().webhook_timeout_ms / 1000
        if kind == "webhook":
            if faults.take("webhook_refused"):
                return WebhookFailure(11205, f"nobody listens at {url}")
            if faults.take("webhook_502"):
                return WebhookFailure(11200, f"{url} answered 502", 502)
            if faults.take("webhook_timeout"):
                await asyncio.sleep(limit_s)
                return WebhookFailure(11200, f"no answer from {url} within {limit_s:g} s")
        try:
            async with asyncio.timeout(limit_s):
                answer = await self._network.client.request(method, url, headers=headers, content=content)
        except TimeoutError:
            return WebhookFailure(11200, f"no answer from {url} within {limit_s:g} s")
        except httpx.ConnectError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, socket.gaierror):
                cause = cause.__cause__ or cause.__context__
            return WebhookFailure(11205 if cause is None else 11210, f"{url}: {error}")
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            return WebhookFailure(11100, f"{url}: {error}")
        except httpx.HTTPError as error:
            return WebhookFailure(11200, f"{url}: {type(error).__name__}: {error}")
        if not answer.is_success:
            return WebhookFailure(11200, f"{url} answered {answer.status_code}", answer.status_code)
        return WebhookAnswer(answer.status_code, answer.headers.get("content-type", ""), answer.content)
