"""Callbacks on their way to the app: one after the other, unless the faults say otherwise."""

from __future__ import annotations

import asyncio

from .fake_twilio_exchange import Exchange
from .fake_twilio_records import Callback
from .fake_twilio_webhooks import WebhookFailure

__all__ = ["deliver"]


async def deliver(exchange: Exchange, callbacks: asyncio.Queue[Callback | None], sid: str) -> None:
    """Make the callbacks about a call or a conference, until None comes."""
    held: Callback | None = None
    while (callback := await callbacks.get()) is not None:
        if exchange.faults.reorder_callbacks and held is None:
            held = callback
            continue
        await _send(exchange, callback, sid)
        if held is not None:
            await _send(exchange, held, sid)
            held = None
    if held is not None:
        await _send(exchange, held, sid)


async def _send(exchange: Exchange, callback: Callback, sid: str) -> None:
    faults = exchange.faults
    if not faults.drop_callbacks:
        if callback.delivered is None:
            await asyncio.sleep((exchange.timings.callback_ms + faults.callback_delay_ms) / 1000)
        for _ in range(2 if faults.duplicate_callbacks else 1):
            result = await exchange.webhooks.callback(callback.url, callback.form, method=callback.method, sid=sid)
            if isinstance(result, WebhookFailure):
                exchange.note("warning", sid=sid, code=result.code, text=result.message)
    if callback.delivered is not None:
        callback.delivered.set()
