"""`m2d doctor`: show what works on this machine and what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2d.cli.options import ReportJsonFlag

if TYPE_CHECKING:
    from m2d.tasks.doctor import DoctorReport, ModelReport


def doctor(
    as_json: ReportJsonFlag = False,
) -> None:
    """Show what works on this machine.

    Lists devices, backends, the embedded models and versions, each with the reason if it does not work.
    Always exits with 0.
    """
    from m2d.cli.console import write_json
    from m2d.tasks.doctor import examine

    report = examine()
    if as_json:
        write_json(report)
        return
    _show(report)


def _show(report: DoctorReport) -> None:
    from m2d.cli.console import show_fields, show_heading, show_states

    show_heading("Devices")
    show_states(
        [
            (device.name, device.problem is None, device.problem or device.description)
            for device in report.devices
        ]
    )
    show_heading("Backends")
    show_states(
        [
            (f"{backend.name} on {device}", problem is None, problem or "")
            for backend in report.backends
            for device, problem in backend.problem_on.items()
        ]
    )
    show_fields([("more", "`m2d backends doctor` lists exported graphs")])
    show_heading("Models, encoder and cache")
    encoder = (
        f"ffmpeg {report.encoder}" if report.encoder else "no encoder found; install imageio-ffmpeg again"
    )
    show_states(
        [
            *((model.name, model.problem is None, _model_text(model)) for model in report.models),
            ("H.264", bool(report.encoder), encoder),
            ("cache", report.cache.problem is None, report.cache.problem or report.cache.folder),
        ]
    )
    show_heading("Versions")
    show_fields([*report.system.items(), *_version_rows(report)])


def _version_rows(report: DoctorReport) -> list[tuple[str, str]]:
    from m2d.tasks.doctor import OPTIONAL_PACKAGES

    return [
        (name, version or f"not installed; comes with {OPTIONAL_PACKAGES.get(name, 'm2d')}")
        for name, version in report.versions.items()
    ]


def _model_text(model: ModelReport) -> str:
    from m2d.cli.console import format_size
    from m2d.video.printable import counted

    if model.problem is not None or model.geometry is None:
        return model.problem or ""
    geometry = model.geometry
    scenes = f"{counted(geometry.num_scenes, 'scene')} of {geometry.default_num_frames} frames"
    size = f"{geometry.default_width}x{geometry.default_height} at {geometry.default_fps} fps"
    return f"{scenes}, {size}; {format_size(model.size_bytes)}, sha256 {model.digest[:16]}"
