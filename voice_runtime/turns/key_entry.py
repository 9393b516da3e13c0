"""Keys the caller presses, one after the other, until the entry is complete."""

from __future__ import annotations

__all__ = ["KEYS", "KeyEntry", "check_keys_to_send", "figures"]

KEYS = "0123456789*#ABCD"
"""What a telephone can send (ITU-T Q.23)."""


def check_keys_to_send(keys: str) -> None:
    """Raise unless ``keys`` can be sent: those of a telephone, and ``w`` and ``W``, which wait half a second and a
    whole one (https://www.twilio.com/docs/voice/twiml/play#attributes-digits).

    Raises:
        ValueError: which characters cannot be; not the others, for they may be a PIN.
    """
    wrong = sorted({character for character in keys if character not in KEYS + "wW"})
    if wrong or not keys:
        came = f"there are also {', '.join(map(ascii, wrong[:5]))}" if wrong else "there are none"
        raise ValueError(f"expected keys of 0-9, *, #, A-D, w and W; {came}")


class KeyEntry:
    """One entry.

    Args:
        digits: it is complete with so many; None: only ``terminator``, or a pause, ends it.
        terminator: the key that ends it and is no part of it; empty: none.

    Raises:
        ValueError: it could never be complete, or the terminator is not one key.
    """

    def __init__(self, digits: int | None = None, terminator: str = "#") -> None:
        if digits is not None and digits < 1:
            raise ValueError(f"digits must be 1 or more, not {digits!r}")
        if len(terminator) > 1 or terminator not in KEYS:
            raise ValueError(f"terminator must be one key of {KEYS}, or '' for none, not {terminator!r}")
        self._wanted = digits
        self._terminator = terminator
        self.keys = ""
        self.terminated = False

    def press(self, key: str) -> bool:
        """The next key; True when the entry is complete with it."""
        if key and key == self._terminator:
            self.terminated = True
        else:
            self.keys += key
        return self.complete

    @property
    def complete(self) -> bool:
        """Whether no further key is waited for."""
        return self.terminated or len(self.keys) == self._wanted

    @property
    def valid(self) -> bool:
        """Whether the entry, as it stands, is what was asked for."""
        return len(self.keys) == self._wanted if self._wanted is not None else bool(self.keys)


def figures(text: str) -> str:
    """The digits of a transcript that holds nothing else, without what separates them; else empty.

    ``figures("4 0 - 12")`` is ``"4012"``.
    """
    kept = "".join(str(int(character)) for character in text if character.isdecimal())  # those of any script
    rest = "".join(character for character in text if not character.isdecimal())
    return kept if not rest.strip(" \t-,.") else ""
