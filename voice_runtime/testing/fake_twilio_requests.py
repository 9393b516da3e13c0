"""A request to the REST API and its answer, without HTTP, and what is common to reading them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec

from .fake_twilio_resources import RestRefusedError

__all__ = ["Handler", "RestAnswer", "RestRequest", "Route", "in_range"]


class RestRequest(msgspec.Struct, frozen=True, kw_only=True):
    """``query`` and ``form`` keep order and repeated names."""

    method: str
    path: str
    query: list[tuple[str, str]] = []
    form: list[tuple[str, str]] = []
    username: str = ""
    password: str = ""


class RestAnswer(msgspec.Struct, frozen=True):
    """``body`` is JSON to be, None for an empty one.

    ``reset``: break the connection instead of answering. ``after``: answer only once this is set. ``content``: bytes
    in place of the body; their type is among the headers.
    """

    status: int
    body: dict[str, Any] | None
    headers: dict[str, str] = {}
    reset: bool = False
    after: asyncio.Event | None = None
    content: bytes | None = None


Handler: TypeAlias = Callable[[RestRequest, tuple[str, ...]], RestAnswer]
"""Gets the request and the variable parts of its path."""

Route: TypeAlias = tuple[str, str, Handler]
"""Method, pattern of what follows the account in the path, handler."""


def in_range(query: dict[str, str], name: str, at: float | None) -> bool:
    """The filters ``name``, ``name<`` and ``name>``: a date, or a date and time.

    Raises:
        RestRefusedError: the filter is neither.
    """
    for key in (name, name + "<", name + ">"):
        if key not in query:
            continue
        if at is None:
            return False
        try:
            bound = datetime.fromisoformat(query[key])
        except ValueError:
            raise RestRefusedError(20001, f"{name} is a date, not {query[key]!r}") from None
        if bound.tzinfo is None:
            bound = bound.replace(tzinfo=UTC)
        moment = datetime.fromtimestamp(at, UTC)
        if key == name and moment.date() != bound.date():
            return False
        if key == name + "<" and moment > bound:
            return False
        if key == name + ">" and moment < bound:
            return False
    return True
