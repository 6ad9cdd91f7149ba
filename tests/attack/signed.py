"""Trials on what m2d wrote itself, with other values and right digests: nothing is signed with a key.

Owns records of films, latents, journals and checkpoints; `data_sets` has the stages of a data set.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save
from torch import Tensor

from m2d.film.journal_folder import write_document, write_tensors
from m2d.tensor_files import read_header
from m2d.training.folder import MANIFEST, canonical_json
from m2d.video.digests import array_digest, text_digest
from m2d.video.digests import canonical_json as film_json
from tests.attack.mutations import change_value
from tests.attack.originals import copy
from tests.attack.trial import Trial
from tests.m2d.video.small_clips import retagged

_NO_DIGEST = "0" * 64
_MODEL = ("--model", "{model}")
_ON_FILM = (
    ("inspect", "film.mp4"),
    ("board", "film.mp4"),
    ("reroll", "film.mp4", "--scene", "1", "--out", "o.mp4", *_MODEL),
    ("extend", "film.mp4", "--prompt", "Actor1 waves.", "--out", "o.mp4", *_MODEL),
    ("reproduce", "film.mp4", "--out", "o.mp4", *_MODEL),
    ("eval", "film.mp4", "--out", "report", "--embedder", "none"),
)


def signed(originals: Path, case: Path, draw: random.Random) -> Trial:
    """Change a value in something that carries digests, and compute them again."""
    kind = draw.choice(sorted(KINDS))
    words, what = KINDS[kind](originals, case, draw)
    model = str(originals / "model")
    return Trial(words=[word.replace("{model}", model) for word in words], what=f"{kind}: {what}"[:300])


def _film_record(originals: Path, case: Path, draw: random.Random) -> tuple[tuple[str, ...], str]:
    """Change the record in a film, and mostly the one beside it alike: it is then believed."""
    record = json.loads(_film(originals, case))["provenance"]
    what = change_value(record, draw)
    if draw.random() < 0.8:
        _write_record(case, record)
    _tag(case / "film.mp4", _sealed(record))
    return draw.choice(_ON_FILM), what


def _run_record(originals: Path, case: Path, draw: random.Random) -> tuple[tuple[str, ...], str]:
    record = json.loads(_film(originals, case))
    what = change_value(record, draw)
    if isinstance(record.get("provenance"), dict):
        record["provenance"] = json.loads(_sealed(record["provenance"]))
    (case / "film.m2d/run.json").write_text(json.dumps(record))
    return draw.choice(_ON_FILM), what


def _latents(originals: Path, case: Path, draw: random.Random) -> tuple[tuple[str, ...], str]:
    record = json.loads(_film(originals, case))["provenance"]
    path = case / "film.m2d/latents.safetensors"
    tensors = {name: torch.from_numpy(array) for name, array in load_arrays(path).items()}
    what = change_tensors(tensors, draw)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    save_arrays(arrays, path)
    for number, scene in enumerate(record["scenes"]):
        array = arrays.get(f"scene_{number:03d}")
        scene["latents_sha256"] = None if array is None else array_digest(array)
    _write_record(case, record)
    _tag(case / "film.mp4", _sealed(record))
    return draw.choice(_ON_FILM), what


def _journal(originals: Path, case: Path, draw: random.Random) -> tuple[tuple[str, ...], str]:
    """Change the journal of a run that stopped in its second window, or before it wrote its run folder."""
    name = draw.choice(("stopped", "unpublished"))
    copy(originals / name, case / "run")
    journal = case / "run/film.m2d/journal"
    path = draw.choice([each for each in sorted(journal.iterdir()) if not each.name.startswith("made-")])
    what = f"{path.name}: " + (
        _change_document(path, draw) if path.suffix == ".json" else _change_saved(path, draw)
    )
    if name == "stopped":
        words = ("generate", "run/story.yaml", "--out", "run/film.mp4")
    else:
        words = ("extend", "run/first.mp4", "--prompt", "Actor1 waves.", "--out", "run/film.mp4", *_MODEL)
    return (*words, draw.choice(("--resume", "--resume", "--resume", "--quiet"))), what


def _change_document(path: Path, draw: random.Random) -> str:
    document = json.loads(path.read_text())
    del document["sha256"], document["m2d_journal"]
    what = change_value(document, draw)
    try:
        write_document(path, document)
    except ValueError:
        path.write_text(json.dumps({"m2d_journal": 1, **document, "sha256": _NO_DIGEST}))
    return what


def _change_saved(path: Path, draw: random.Random) -> str:
    facts = dict(read_header(path).metadata)
    tensors = load_file(path)
    what = change_tensors(tensors, draw) if draw.random() < 0.7 else change_value(facts, draw)
    # The format has texts alone, and no halves of characters.
    texts = {name: str(value).encode(errors="replace").decode() for name, value in facts.items()}
    write_tensors(path, save(tensors, {**texts, "sha256": _NO_DIGEST}))
    return what


def _checkpoint(originals: Path, case: Path, draw: random.Random) -> tuple[tuple[str, ...], str]:
    copy(originals / "clips", case / "clips")
    text = (originals / "training.yaml").read_text()
    checkpoints = sorted((copy(originals / "run", case / "run") / "checkpoints").iterdir())
    if draw.random() < 0.3:
        # A run folder is also where another training starts.
        text = text.replace(f"init: {originals / 'model'}", "init: run")
        words: tuple[str, ...] = ("train", "training.yaml", "--out", "new", *draw.choice(((), ("--plan",))))
    else:
        text = text.replace("steps: 2\n", "steps: 3\n")
        words = ("train", "training.yaml", "--out", "run", "--resume")
    (case / "training.yaml").write_text(text)
    path = draw.choice(sorted(checkpoints[-1].iterdir()))
    if path.suffix == ".safetensors":
        tensors = load_file(path)
        what = change_tensors(tensors, draw)
        path.write_bytes(save(tensors))
    else:
        document = json.loads(path.read_text())
        what = change_value(document["files"] if path.name == MANIFEST else document, draw)
        path.write_text(json.dumps(document, sort_keys=True, indent=1) + "\n")
    _sign(path.parent, is_manifest=path.name == MANIFEST)
    return words, f"{path.name}: {what}"


def _sign(checkpoint: Path, *, is_manifest: bool) -> None:
    """Give a checkpoint the manifest that its files need, or its changed manifest a digest."""
    path = checkpoint / MANIFEST
    files = json.loads(path.read_text())["files"]
    if not is_manifest:
        files = {name: hashlib.sha256((checkpoint / name).read_bytes()).hexdigest() for name in files}
    try:
        digest = text_digest(canonical_json(files))
    except ValueError:
        digest = _NO_DIGEST
    path.write_text(json.dumps({"files": files, "sha256": digest}, sort_keys=True, indent=1) + "\n")


def change_tensors(tensors: dict[str, Tensor], draw: random.Random) -> str:
    """Change a tensor: values, shape, type or name; return what was done."""
    name = draw.choice(sorted(tensors))
    kind = draw.choice((*CHANGES, "drop", "rename", "add"))
    if kind in CHANGES:
        tensors[name] = CHANGES[kind](tensors[name]).contiguous().clone()
    elif kind == "add":
        tensors[draw.choice(("", "x", "../../x", f"{name}/step", "scene_-01", "scene_999"))] = tensors[
            name
        ].clone()
    else:
        tensor = tensors.pop(name)
        if kind == "rename":
            tensors[f"{name}x"] = tensor
    return f"{name}: {kind}"


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda tensor: torch.full_like(tensor.float(), float("nan")),
    "infinity": lambda tensor: torch.full_like(tensor.float(), float("inf")),
    "one nan": lambda tensor: torch.cat([torch.tensor([float("nan")]), tensor.float().reshape(-1)[1:]]).view(
        tensor.shape
    ),
    "huge": lambda tensor: torch.full_like(tensor.float(), 3e38),
    "negative": lambda tensor: -tensor.abs() - 1,
    "zero": torch.zeros_like,
    "int64": lambda tensor: tensor.to(torch.int64),
    "float64": lambda tensor: tensor.to(torch.float64),
    "float16": lambda tensor: tensor.to(torch.float16),
    "bool": lambda tensor: tensor.to(torch.bool),
    "flat": lambda tensor: tensor.reshape(-1),
    "turned": lambda tensor: tensor.movedim(0, -1) if tensor.ndim else tensor,
    "empty": lambda tensor: tensor.reshape(-1)[:0],
    "longer": lambda tensor: torch.cat([tensor.reshape(1, -1)] * 3) if tensor.ndim < 2 else tensor.repeat(
        3, *[1] * (tensor.ndim - 1)
    ),
    "scalar": lambda tensor: tensor.reshape(-1)[:1].reshape(()),
}  # fmt: skip


def _film(originals: Path, case: Path) -> str:
    copy(originals / "film.mp4", case / "film.mp4")
    copy(originals / "film.m2d", case / "film.m2d")
    return (case / "film.m2d/run.json").read_text()


def _sealed(record: Any) -> str:
    document = {name: value for name, value in record.items() if name != "sha256"}
    try:
        return film_json({**document, "sha256": text_digest(film_json(document))})
    except ValueError:
        return json.dumps({**document, "sha256": _NO_DIGEST})


def _write_record(case: Path, record: Any) -> None:
    """Put a record into `run.json`, with the digests of the files beside it."""
    folder = case / "film.m2d"
    run = json.loads((folder / "run.json").read_text())
    run["provenance"] = json.loads(_sealed(record))
    run["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in run["files"]}
    (folder / "run.json").write_text(json.dumps(run))


def _tag(film: Path, text: str) -> None:
    """Give a film another record; its packets stay."""
    retagged(film, film.with_name("tagged.mp4"), {"m2d.recipe": text, "comment": text}).replace(film)


KINDS: dict[str, Callable[[Path, Path, random.Random], tuple[tuple[str, ...], str]]] = {
    "film record": _film_record,
    "run record": _run_record,
    "latents": _latents,
    "journal": _journal,
    "checkpoint": _checkpoint,
}
