"""The classes of trials: each copies originals into a case, changes them at random and names a command."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.guard import LIMIT_BYTES, LIMIT_S, Ending, Guarded, Rooms
from tests.attack.mutations import MARKER, change_file, change_text
from tests.attack.originals import CANARY, copy, environment

_WORDS = (
    "generate",
    "check",
    "inspect",
    "extend",
    "reroll",
    "reproduce",
    "board",
    "verify",
    "train",
    "export",
    "init",
)
_FLAGS = (
    "--out", "--seed", "--set", "--prompt", "--model", "--scene", "--join", "--cuts", "--resume", "--force",
    "--json",
    "--quiet", "--backend", "--from", "--plan", "--data", "--preview", "--seeds", "--debug-not", "--size",
    "--frames",
)  # fmt: skip
_ARGUMENTS = (
    "story.yaml", "film.mp4", "clip.mp4", ".", "..", "-", "", "nowhere.yaml", "a" * 300, "a/" * 3000,
    "\udcff.yaml", "~", "~nobody/x",
    "/dev/zero", "/dev/stdin", "/proc/self/mem", "http://127.0.0.1:9/x", "file:///etc/passwd",
    "sampling.seed=x", "x=y=z",
    "scenes[99].seed=1", "sampling.num_inference_steps=1000000000", "video.num_frames=4000000001",
    "video.upscale=1000000",
    "1-99999999999", "-1", "1e999", "nan", "0x10", "eager", "tensorrt", "builtin:nothing",
    "../../etc/passwd", "\x1b[31m", "\u202e",
)  # fmt: skip
_ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "LANG": ("C", "xx_YY", ""), "LC_ALL": ("C", "de_DE.ISO-8859-1"),
    "PYTHONIOENCODING": ("ascii", "utf-16", "latin-1:strict"),
    "M2D_CACHE": ("", "/dev/null", "story.yaml", "/proc", "a/" * 2000, "\u00e9 space'", "loop"),
    "HOME": ("", "/nonexistent", "story.yaml"),
    "TMPDIR": ("/nonexistent", "story.yaml", ""), "COLUMNS": ("0", "-5", "x", "99999999"),
    "TERM": ("dumb", "", "x" * 4000),
    "NO_COLOR": ("1",), "FORCE_COLOR": ("1",), "OMP_NUM_THREADS": ("0", "x"), "HF_HOME": ("/dev/null",),
    "XDG_CACHE_HOME": ("\x01",),
    "IMAGEIO_FFMPEG_EXE": ("/bin/false", "/nonexistent"), "LOCAL_RANK": ("x", "1"),
    "WORLD_SIZE": ("2", "x"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One command on changed input.

    Attributes:
        words: Arguments of `m2d`.
        what: What was changed.
        environment: Variables that differ.
    """

    words: list[str]
    what: str
    environment: dict[str, str] = field(default_factory=dict)


Attack = Callable[[Path, Path, random.Random], Trial]


def _recipe(originals: Path, case: Path, draw: random.Random) -> Trial:
    story = copy(originals / "story.yaml", case / "story.yaml")
    text = story.read_text()
    for _ in range(draw.choice((1, 1, 3))):
        text = change_text(text, draw)
    story.write_text(text, "utf-8", errors="surrogatepass")
    if draw.random() < 0.2:
        change_file(story, draw)
    return Trial(
        words=draw.choice([["check", "story.yaml"], ["generate", "story.yaml", "--out", "o.mp4"]]),
        what="recipe",
    )


def _words(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "story.yaml", case / "story.yaml")
    copy(originals / "film.mp4", case / "film.mp4")
    copy(originals / "videos/clip.mp4", case / "clip.mp4")
    words = [draw.choice(_WORDS)]
    for _ in range(draw.randrange(1, 5)):
        words.append(draw.choice((*_FLAGS, *_ARGUMENTS)))
        if words[-1].startswith("--"):
            words.append(draw.choice(_ARGUMENTS))
    return Trial(words=words, what="arguments")


def _video(originals: Path, case: Path, draw: random.Random) -> Trial:
    original = draw.choice(sorted((originals / "videos").iterdir()))
    video = copy(original, case / original.name)
    what = change_file(video, draw)
    if draw.random() < 0.2 and video.is_file():
        video = video.rename(video.with_suffix(draw.choice((".mp4", ".mkv", ".avi", ".webm", ".gif", ".ts"))))
    model = ["--model", str(originals / "model")]
    words = draw.choice(
        [
            ["inspect", video.name],
            [
                "extend",
                video.name,
                "--prompt",
                "Actor1 waves.",
                "--out",
                "o.mp4",
                *model,
                "--set",
                "sampling.num_inference_steps=2",
            ],
            ["train", "--data", ".", "--plan", *model],
        ]
    )
    return Trial(words=words, what=what)


def _on_film(draw: random.Random, film: str) -> list[str]:
    return draw.choice(
        [
            ["inspect", film],
            ["board", film],
            ["reroll", film, "--scene", "1", "--out", "o.mp4"],
            ["extend", film, "--prompt", "Actor1 waves.", "--out", "o.mp4"],
            ["reproduce", film, "--out", "o.mp4"],
        ]
    )


def _film(originals: Path, case: Path, draw: random.Random) -> Trial:
    film = copy(originals / "film.mp4", case / "film.mp4")
    if draw.random() < 0.5:
        copy(originals / "film.m2d", case / "film.m2d")
    return Trial(what=change_file(film, draw), words=_on_film(draw, "film.mp4"))


def _run_folder(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "film.mp4", case / "film.mp4")
    folder = copy(originals / "film.m2d", case / "film.m2d")
    return Trial(what=_change_one(folder, draw), words=_on_film(draw, "film.mp4"))


def _model(originals: Path, case: Path, draw: random.Random) -> Trial:
    what = _change_one(copy(originals / "model", case / "model"), draw)
    text = (originals / "story.yaml").read_text().replace(str(originals / "model"), "./model")
    (case / "story.yaml").write_text(text)
    return Trial(
        what=what, words=draw.choice([["check", "story.yaml"], ["generate", "story.yaml", "--out", "o.mp4"]])
    )


def _data(originals: Path, case: Path, draw: random.Random) -> Trial:
    clips = copy(originals / "clips", case / "clips")
    text = (originals / "training.yaml").read_text()
    if draw.random() < 0.3:
        text = change_text(text, draw)
    (case / "training.yaml").write_text(text, "utf-8", errors="surrogatepass")
    kind = draw.choice(("folder", "csv", "jsonl", "json"))
    if kind != "folder":
        _describe(clips, kind)
        (case / "training.yaml").write_text(
            text.replace("source: clips", f"source: clips/clips.{kind}"), "utf-8", errors="surrogatepass"
        )
    what = _change_one(clips, draw)
    return Trial(what=what, words=["train", "training.yaml", "--out", "run", *draw.choice(([], ["--plan"]))])


def _describe(clips: Path, kind: str) -> None:
    names = [f"{number}.mp4" for number in range(4)]
    if kind == "csv":
        rows = [
            "fps,width,height,caption,path,num_frame",
            *(f"8,64,64,Actor1 walks.,{name},9" for name in names),
        ]
    elif kind == "jsonl":
        scenes = [[{"video": name, "caption": "Actor1 walks."}] for name in names]
        rows = [json.dumps({"m2d": 1, "scenes": each}) for each in scenes]
    else:
        rows = [json.dumps([{"values": [{"url": name, "caption": "Actor1 walks."}]} for name in names])]
    (clips / f"clips.{kind}").write_text("\n".join(rows) + "\n")


def _artifact(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "story.yaml", case / "story.yaml")
    what = _change_one(copy(originals / "graphs", case / "graphs"), draw)
    words = ["generate", "story.yaml", "--backend", "onnx", "--artifacts", "graphs", "--out", "o.mp4"]
    return Trial(what=what, words=words)


def _journal(originals: Path, case: Path, draw: random.Random) -> Trial:
    folder = copy(originals / "unfinished", case / "run")
    what = _change_one(folder / "film.m2d", draw)
    words = [
        "generate",
        "run/story.yaml",
        "--out",
        "run/film.mp4",
        draw.choice(("--resume", "--force", "--quiet")),
    ]
    # A run of many steps that is resumed whole would reach the time limit.
    return Trial(
        what=what,
        words=[*words, "--set", "sampling.num_inference_steps=2"] if words[-1] != "--resume" else words,
    )


def _checkpoint(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "clips", case / "clips")
    text = (originals / "training.yaml").read_text()
    (case / "training.yaml").write_text(text)
    what = _change_one(copy(originals / "run", case / "run"), draw)
    return Trial(what=what, words=["train", "training.yaml", "--out", "run", "--resume"])


def _environment(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "story.yaml", case / "story.yaml")
    copy(originals / "film.mp4", case / "film.mp4")
    names = draw.sample(sorted(_ENVIRONMENTS), draw.choice((1, 1, 2, 3)))
    changed = {name: draw.choice(_ENVIRONMENTS[name]) for name in names}
    words = draw.choice(
        [
            ["check", "story.yaml"],
            ["inspect", "film.mp4"],
            ["generate", "story.yaml", "--out", "o.mp4"],
            ["doctor"],
        ]
    )
    return Trial(
        words=words,
        what=" ".join(f"{name}={value[:40]!r}" for name, value in changed.items()),
        environment=changed,
    )


def _change_one(folder: Path, draw: random.Random) -> str:
    """Change a file somewhere in a folder; small files are as likely as large ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return "; ".join(
        change_file(path, draw) for path in draw.sample(files, draw.choice((1, 1, 1, min(2, len(files)))))
    )


CLASSES: dict[str, Attack] = {
    "recipe": _recipe,
    "arguments": _words,
    "video": _video,
    "film": _film,
    "run folder": _run_folder,
    "model": _model,
    "data": _data,
    "artifact": _artifact,
    "journal": _journal,
    "checkpoint": _checkpoint,
    "environment": _environment,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A trial's command, what was changed, how it ended, and what was wrong with that."""

    trial: Trial
    ending: Ending
    wrong: list[str]


def run_trial(name: str, *, originals: Path, case: Path, seed: int) -> Result:
    """Run one trial of a class in an empty folder `case`; the seed determines everything."""
    case.mkdir(parents=True)
    cache = case / "cache"
    cache.mkdir()
    canary = case.parent / "canary"
    canary.write_text(CANARY)
    trial = CLASSES[name](originals, case, random.Random(f"{name} {seed}"))
    rooms = Rooms(case=case, readable=(originals, canary))
    ending = Guarded(trial.words, rooms, environment(cache) | trial.environment).wait()
    return Result(trial=trial, ending=ending, wrong=judge(ending, case))


def judge(ending: Ending, case: Path) -> list[str]:
    """Return what must not happen and did."""
    said = ending.stdout + ending.stderr
    wrong = []
    if ending.is_late:
        wrong.append(f"more than {LIMIT_S:.0f} s of work, or no end")
    elif ending.code not in (0, 1, 2, 3):
        wrong.append(f"exit code {ending.code}")
    if "Traceback (most recent call last)" in said:
        wrong.append("a traceback")
    if ending.code in (1, 2, 3) and not ending.stderr.strip():
        wrong.append("refused without a word")
    if ending.peak_bytes > LIMIT_BYTES:
        wrong.append(f"{ending.peak_bytes >> 20} MiB of memory")
    wrong += [f"forbidden: {breach}" for breach in ending.breaches]
    if any(case.parent.rglob(MARKER)):
        wrong.append("code was run")
    if CANARY in said:
        wrong.append("a foreign file was shown")
    if not ending.is_late and any(path.name.endswith(".part") for path in case.rglob("*")):
        wrong.append("a half-written file is left")
    if "\x1b[31m" in said or "\u202e" in said:
        wrong.append("control characters of the input were printed")
    return wrong
