"""The classes of trials: each copies originals into a case, changes them at random and names a command."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.attack.bombs import BOMBS
from tests.attack.data_sets import data_set, training_data
from tests.attack.environments import ENVIRONMENTS
from tests.attack.guard import LIMIT_S, Ending, Guarded, Rooms
from tests.attack.mutations import change_file, change_one, change_text
from tests.attack.numbers import number
from tests.attack.odd_paths import ARGUMENTS, harmless, is_output, odd_path
from tests.attack.originals import CANARY, copy, environment
from tests.attack.signed import signed
from tests.attack.states import SILENT, STATES
from tests.attack.trial import Attack, Trial, named_paths
from tests.attack.verdict import judge

_WORDS = (
    "generate",
    "check",
    "inspect",
    "extend",
    "reroll",
    "reproduce",
    "board",
    # Of a sound story, it compiles code for other backends, with programs that no trial may start.
    "verify --backend eager",
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


def _recipe(originals: Path, case: Path, draw: random.Random) -> Trial:
    story = copy(originals / "story.yaml", case / "story.yaml")
    text = story.read_text()
    for _ in range(draw.choice((1, 1, 3))):
        text = change_text(text, draw)
    story.write_text(text, "utf-8", errors="surrogatepass")
    what = change_file(story, draw) if draw.random() < 0.2 else "recipe"
    return Trial(words=_checked_or_made(draw), what=what)


def _checked_or_made(draw: random.Random) -> list[str]:
    """`check` refuses what `generate` refuses, and is quicker."""
    return ["check", "story.yaml"] if draw.random() < 0.8 else ["generate", "story.yaml", "--out", "o.mp4"]


def _words(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "story.yaml", case / "story.yaml")
    copy(originals / "film.mp4", case / "film.mp4")
    copy(originals / "videos/clip.mp4", case / "clip.mp4")
    words = draw.choice(_WORDS).split()
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


def _on_film(draw: random.Random, film: str, originals: Path) -> list[str]:
    # Without it, the commands end before they read the run folder.
    model = ["--model", str(originals / "model")]
    return draw.choice(
        [
            ["inspect", film],
            ["inspect", film],
            ["inspect", film],
            ["board", film],
            ["board", film],
            ["reroll", film, "--scene", "1", "--out", "o.mp4", *model],
            ["extend", film, "--prompt", "Actor1 waves.", "--out", "o.mp4", *model],
            ["reproduce", film, "--out", "o.mp4", *model],
            ["eval", film, "--out", "report", "--embedder", "none"],
        ]
    )


def _film(originals: Path, case: Path, draw: random.Random) -> Trial:
    film = copy(originals / "film.mp4", case / "film.mp4")
    if draw.random() < 0.5:
        copy(originals / "film.m2d", case / "film.m2d")
    return Trial(what=change_file(film, draw), words=_on_film(draw, "film.mp4", originals))


def _run_folder(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "film.mp4", case / "film.mp4")
    folder = copy(originals / "film.m2d", case / "film.m2d")
    return Trial(what=change_one(folder, draw), words=_on_film(draw, "film.mp4", originals))


def _model(originals: Path, case: Path, draw: random.Random) -> Trial:
    what = change_one(copy(originals / "model", case / "model"), draw)
    text = (originals / "story.yaml").read_text().replace(str(originals / "model"), "./model")
    (case / "story.yaml").write_text(text)
    return Trial(what=what, words=_checked_or_made(draw))


def _artifact(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "story.yaml", case / "story.yaml")
    # Without the key of whoever exported them, all graphs are rejected before they are read.
    key = copy(originals / "cache/signing.key", case / "cache/signing.key")
    key.chmod(0o600)
    (case / "cache").chmod(0o700)
    what = change_one(copy(originals / "graphs", case / "graphs"), draw)
    words = ["generate", "story.yaml", "--backend", "onnx", "--artifacts", "graphs", "--out", "o.mp4"]
    return Trial(what=what, words=words)


def _journal(originals: Path, case: Path, draw: random.Random) -> Trial:
    folder = copy(originals / "unfinished", case / "run")
    what = change_one(folder / "film.m2d", draw)
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
    what = change_one(copy(originals / "run", case / "run"), draw)
    return Trial(what=what, words=["train", "training.yaml", "--out", "run", "--resume"])


def _environment(originals: Path, case: Path, draw: random.Random) -> Trial:
    copy(originals / "story.yaml", case / "story.yaml")
    copy(originals / "film.mp4", case / "film.mp4")
    names = draw.sample(sorted(ENVIRONMENTS), draw.choice((1, 1, 2, 3)))
    changed = {name: draw.choice(ENVIRONMENTS[name]) for name in names}
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


def _path(originals: Path, case: Path, draw: random.Random) -> Trial:
    for name in ("story.yaml", "training.yaml", "film.mp4", "film.m2d", "clips", "model"):
        copy(originals / name, case / name)
    path, what = odd_path(case, draw)
    command = draw.choice(ARGUMENTS)
    if is_output(command):
        path = harmless(path, case)
    words = [word.replace("{}", path) for word in command.split()]
    return Trial(words=words, what=what)


def _state(originals: Path, case: Path, draw: random.Random) -> Trial:
    for name in ("story.yaml", "training.yaml", "film.mp4", "film.m2d", "clips"):
        copy(originals / name, case / name)
    name = draw.choice(sorted(STATES))
    # By their whole names: the current folder may be gone.
    words = draw.choice(
        [
            ["check", f"{case}/story.yaml"],
            ["inspect", f"{case}/film.mp4"],
            ["generate", f"{case}/story.yaml", "--out", draw.choice(("o.mp4", f"{case}/o.mp4"))],
            ["reroll", f"{case}/film.mp4", "--scene", "1", "--model", str(originals / "model")],
            ["board", f"{case}/film.mp4"],
            ["train", f"{case}/training.yaml", "--out", draw.choice(("r", f"{case}/r"))],
            ["eval", f"{case}/film.mp4", "--out", "report", "--embedder", "none"],
            ["doctor"],
            ["init", "new.yaml"],
        ]
    )
    return Trial(words=words, what=name, state=STATES[name], is_silent=name in SILENT)


def _bomb(originals: Path, case: Path, draw: random.Random) -> Trial:
    kind = draw.choice(sorted(BOMBS))
    return Trial(words=BOMBS[kind](originals, case, draw), what=kind)


CLASSES: dict[str, Attack] = {
    "recipe": _recipe,
    "arguments": _words,
    "number": number,
    "video": _video,
    "film": _film,
    "run folder": _run_folder,
    "model": _model,
    "data": training_data,
    "data set": data_set,
    "artifact": _artifact,
    "journal": _journal,
    "checkpoint": _checkpoint,
    "signed": signed,
    "environment": _environment,
    "path": _path,
    "state": _state,
    "bomb": _bomb,
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
    # Without a usable TMPDIR, Python chooses the system's.
    spare = (Path(tempfile.gettempdir()),) if "TMPDIR" in trial.environment else ()
    read, made = named_paths(trial, case)
    rooms = Rooms(case=case, readable=(originals, canary, *read), writable=spare, outputs=made)
    # The exporter of torch alone takes half a minute, whatever it is given.
    limit_s = LIMIT_S * (6 if trial.words[0] == "export" else 1)
    around = environment(cache) | trial.environment
    ending = Guarded(trial.words, rooms, around, state=trial.state, limit_s=limit_s).wait()
    # A message quotes the recipe that the command names, wherever that leads.
    may_show = name in ("path", "recipe") and "link to a foreign file" in trial.what
    wrong = judge(
        ending,
        case,
        is_silent=trial.is_silent,
        may_show=may_show,
        is_coloured="FORCE_COLOR" in trial.environment,
    )
    return Result(trial=trial, ending=ending, wrong=wrong)
