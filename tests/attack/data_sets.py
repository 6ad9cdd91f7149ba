"""Trials on data: what a training reads, and the folder that `m2d data build` makes."""

from __future__ import annotations

import json
import random
from pathlib import Path

from m2d.video.digests import canonical_json, text_digest
from tests.attack.mutations import ODD_VALUES, change_file, change_one, change_text, change_value
from tests.attack.originals import copy
from tests.attack.trial import Trial

_FIELDS = (
    "filter.min_s", "filter.max_s", "filter.trim_frames", "filter.max_duplicate", "shots.clip_s",
    "shots.detector", "shots.time_limit_s", "relate.embedder", "relate.max_shots", "relate.max_gap_s",
    "caption.source", "caption.tokenizer", "caption.frames",
)  # fmt: skip


def training_data(originals: Path, case: Path, draw: random.Random) -> Trial:
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
    what = change_one(clips, draw)
    return Trial(
        what=what,
        words=["train", "training.yaml", "--out", "run", *draw.choice(([], ["--plan"], ["--plan"]))],
    )


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


def data_set(originals: Path, case: Path, draw: random.Random) -> Trial:
    """Change a stage, the settings, a caption beside a film, or a setting of the command."""
    films, built = copy(originals / "films", case / "films"), copy(originals / "set", case / "set")
    kind = draw.choice(("set", "signed", "captions", "setting"))
    words = ["data", "build", "films", "--out", "set"]
    if kind in ("set", "signed"):
        what = change_one(built, draw) if kind == "set" else _change_signed(built / "stages", draw)
        words = draw.choice(
            [
                words,
                ["data", "show", "set", "0"],
                ["data", "check", "set"],
                ["data", "report", "--out", "set"],
                ["data", "pack", "--out", "set", *draw.choice(([], ["--set", "pack.videos=true"]))],
            ]
        )
    elif kind == "captions":
        what = change_file(next(films.glob("*.captions.json")), draw)
    else:
        value = draw.choice(ODD_VALUES)
        what = f"{draw.choice(_FIELDS)}={json.dumps(value)[:5000]}"
        words += ["--set", what]
    return Trial(words=words, what=what[:200])


def _change_signed(stages: Path, draw: random.Random) -> str:
    """Change a value in a line of a stage, and give the line its digest: nothing is signed with a key."""
    file = draw.choice(sorted(path for path in stages.glob("*.jsonl") if path.stat().st_size))
    lines = file.read_text().splitlines()
    place = draw.randrange(len(lines))
    document = json.loads(lines[place])
    del document["digest"]
    what = change_value(document, draw)
    try:
        document["digest"] = text_digest(canonical_json(document))[:16]
    except ValueError:
        document["digest"] = "0" * 16
    lines[place] = json.dumps(document)
    file.write_text("\n".join(lines) + "\n")
    return f"{file.name}:{place + 1}: {what}"
