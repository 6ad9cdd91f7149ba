"""Finds backends by the entry-point group `m2d.backends`, so that any installed package can add one.

Owns names and their lookup; imports a backend only when it is requested.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from m2d.backend import Backend
from m2d.errors import BackendUnavailable, UnknownBackend

GROUP = "m2d.backends"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendStatus:
    """One installed backend.

    Attributes:
        unavailable_reason: Why it cannot run here; None if it can.
    """

    name: str
    unavailable_reason: str | None


def backend_names() -> tuple[str, ...]:
    """Names of all installed backends, sorted; none of them is imported."""
    return tuple(sorted(_entries()))


def get_backend(name: str) -> Backend:
    """Create the backend `name`. It keeps what it has loaded, so the caller reuses the instance.

    Raises:
        UnknownBackend: No installed package provides that name.
        BackendUnavailable: The backend's module cannot be imported.
    """
    entries = _entries()
    if name not in entries:
        raise UnknownBackend(f"backend: got {name!r}, installed: {', '.join(sorted(entries)) or 'none'}")
    try:
        backend: Backend = entries[name].load()()
    except ImportError as error:
        raise BackendUnavailable(f"backend {name!r} cannot be imported: {error}") from error
    return backend


def available_backends(device: str | None = None) -> tuple[BackendStatus, ...]:
    """Check for every installed backend whether it can run here."""
    return tuple(
        BackendStatus(name=name, unavailable_reason=_reason(name, device)) for name in backend_names()
    )


def _reason(name: str, device: str | None) -> str | None:
    try:
        return get_backend(name).unavailable_reason(device)
    except BackendUnavailable as error:
        return str(error)


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}
