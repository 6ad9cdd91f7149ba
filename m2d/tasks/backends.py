"""Backends: list the installed backends, where each can run, and the graphs it has exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2d.backend import Backend, ExportingBackend, StoredArtifact, TrainableBackend
from m2d.errors import BackendUnavailable
from m2d.registry import available_backends, backend_names, get_backend


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendFacts:
    """One installed backend.

    Attributes:
        problem: Why the backend cannot run here on any device; None if it can.
        problem_on: Device to the reason why the backend cannot run there; None if it can.
        trains: Whether gradients flow through the backend.
        exports: Whether the backend runs exported graphs.
        artifacts: Exported graphs in the user's cache.
        caveat: What has not been tested on hardware; empty if there is nothing.
    """

    name: str
    problem: str | None
    problem_on: Mapping[str, str | None]
    trains: bool = False
    exports: bool = False
    artifacts: tuple[StoredArtifact, ...] = ()
    caveat: str = ""


def examine(devices: Sequence[str] = ()) -> tuple[BackendFacts, ...]:
    """Examine every installed backend, sorted by name; a backend that cannot run is part of the result.

    Args:
        devices: Devices to examine; with none, torch is not imported.
    """
    by_device = {
        device: {status.name: status.unavailable_reason for status in available_backends(device)}
        for device in devices
    }
    return tuple(
        _facts(name, {device: reasons[name] for device, reasons in by_device.items()})
        for name in backend_names()
    )


def _facts(name: str, problem_on: Mapping[str, str | None]) -> BackendFacts:
    try:
        backend: Backend = get_backend(name)
    except BackendUnavailable as error:
        return BackendFacts(name=name, problem=str(error), problem_on=problem_on)
    return BackendFacts(
        name=name,
        problem=backend.unavailable_reason(),
        problem_on=problem_on,
        trains=isinstance(backend, TrainableBackend),
        exports=isinstance(backend, ExportingBackend),
        artifacts=backend.stored() if isinstance(backend, ExportingBackend) else (),
        caveat=str(getattr(backend, "not_yet_run", "")),
    )
