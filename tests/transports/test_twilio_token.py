"""One-time tokens."""

from __future__ import annotations

import threading

from voice_runtime.transports.twilio_token import TokenBook


def test_good_once() -> None:
    """The second time it is nobody's."""
    book: TokenBook[str] = TokenBook()
    token = book.issue("call", now=0, ttl=60)
    assert book.redeem(token, now=1) == "call"
    assert book.redeem(token, now=1) is None


def test_expires() -> None:
    """At its time, not a moment later."""
    book: TokenBook[str] = TokenBook()
    token = book.issue("call", now=0, ttl=60)
    assert book.redeem(token, now=60) is None
    late = book.issue("call", now=0, ttl=60)
    assert book.redeem(late, now=59.9) == "call"


def test_expired_ones_take_no_room_and_the_oldest_gives_way() -> None:
    """Bounded, whatever is asked for."""
    book: TokenBook[int] = TokenBook(limit=3)
    first = book.issue(0, now=0, ttl=10)
    tokens = [book.issue(n, now=20, ttl=10) for n in range(1, 5)]
    assert len(book) == 3
    assert book.redeem(first, now=20) is None
    assert [book.redeem(token, now=21) for token in tokens] == [None, 2, 3, 4]


def test_unguessable_and_fit_for_a_path() -> None:
    """192 bits, and nothing that a URL escapes."""
    book: TokenBook[None] = TokenBook()
    tokens = {book.issue(None, now=0, ttl=1e9) for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(t) == 32 and t.replace("-", "").replace("_", "").isalnum() for t in tokens)
    assert book.redeem("", now=0) is None
    assert book.redeem("x" * 32, now=0) is None


def test_revoked_is_gone() -> None:
    """A call that could not be placed."""
    book: TokenBook[str] = TokenBook()
    token = book.issue("call", now=0, ttl=60)
    book.revoke(token)
    book.revoke(token)
    assert book.redeem(token, now=0) is None


def test_one_of_many_threads_gets_it() -> None:
    """Two handshakes with one token at the same time are one call."""
    book: TokenBook[str] = TokenBook()
    for _ in range(200):
        token = book.issue("call", now=0, ttl=60)
        got: list[str | None] = []
        threads = [threading.Thread(target=lambda: got.append(book.redeem(token, now=0))) for _ in range(4)]  # noqa: B023
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, got)) == ["None", "None", "None", "call"]
