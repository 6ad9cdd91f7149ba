"""Backends: what is installed, where each can run, what it has exported, and what nobody has tried yet.

Owns the questions; the answers are the backends' own. Changes nothing.
"""

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
        name: What `--backend` takes.
        problem: Why it cannot work here at all; None when it can.
        problem_on: For each device that was asked about, why it cannot run there; None when it can.
        trains: Whether gradients flow through it.
        exports: Whether it runs graphs that were exported before.
        artifacts: Graphs in the user's cache.
        caveat: What has not been tried on hardware; empty when there is nothing to say.
    """

    name: str
    problem: str | None
    problem_on: Mapping[str, str | None]
    trains: bool = False
    exports: bool = False
    artifacts: tuple[StoredArtifact, ...] = ()
    caveat: str = ""


def examine(devices: Sequence[str] = ()) -> tuple[BackendFacts, ...]:
    """Ask every installed backend, by name. Never fails: what does not work is part of the answer.

    Args:
        devices: Devices to ask about; none keeps torch out of it.
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
