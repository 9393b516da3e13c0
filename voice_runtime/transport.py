"""Choosing a transport by name. This is the interface; the transports themselves live in the folder ``transports/``.

::

    transport = create_transport("twilio")
    call_sid = transport.initiate_outbound_call("+358401234567")

    sms = get_sms_transport("twilio")
    sms.send_sms(to="+358401234567", body="Your table is booked.")

A transport of one's own is registered as any other provider, with the kind ``"transport"`` or ``"sms"``; see
:mod:`voice_runtime.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

from . import registry

__all__ = ["SmsTransport", "Transport", "create_transport", "get_sms_transport"]


@runtime_checkable
class Transport(Protocol):
    """What every transport offers for placing and ending calls. The methods block; not for an event loop's thread."""

    def initiate_outbound_call(self, phone: str, **options: Any) -> str:
        """Dial and return the call's id."""

    def hang_up_call(self, call_sid: str) -> bool:
        """End a call; False when it was already over."""

    def build_stream_twiml(self, url: str, parameters: Mapping[str, str] | None = None, **options: Any) -> str:
        """The document that connects a call to our stream."""

    def register_voice_websocket(self, app: Any, session: Any, **options: Any) -> Any:
        """Serve the stream's endpoint in a FastAPI app."""


@runtime_checkable
class SmsTransport(Protocol):
    """What every SMS transport offers. Blocks; not for an event loop's thread.

    One may offer more: that of Twilio takes ``status_callback`` and ``send_at``, too, and can cancel a message.
    """

    def send_sms(self, to: str, body: str) -> dict[str, str]:
        """Send one text, once; the result has the keys ``message_sid``, ``status`` and ``to``."""


def create_transport(provider: str = "twilio", **options: Any) -> Transport:
    """The transport of that name; nothing is connected yet.

    Args:
        options: for its class, for example ``settings=``.

    Raises:
        ProviderNotFoundError: "Unknown transport: ...".
        ProviderUnavailableError: what it needs is not installed.
    """
    return cast(Transport, registry.load_class("transport", provider)(**options))


def get_sms_transport(provider: str = "twilio", **options: Any) -> SmsTransport:
    """The SMS transport of that name; nothing is connected yet.

    Args:
        options: for its class, for example ``sender=``.

    Raises:
        ProviderNotFoundError: "Unknown SMS transport: ...".
        ProviderUnavailableError: what it needs is not installed.
    """
    return cast(SmsTransport, registry.load_class("sms", provider)(**options))
