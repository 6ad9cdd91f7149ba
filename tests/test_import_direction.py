"""Imports go downwards only, heavy packages stay where they belong, and nothing is ever unpickled.

Reads the sources of `m2d/` and `backends/` as syntax trees. Imports inside functions count too: a lazy import
has a direction like any other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = "m2d_backends"
BACKEND_ROW = 4

ROWS = {
    "m2d.errors": 0,
    "m2d.progress": 0,
    "m2d.geometry": 0,
    "m2d.masks": 0,
    "m2d.layout": 0,
    "m2d.disk": 0,
    "m2d.files": 0,
    "m2d.reading": 0,
    "m2d.folders": 0,
    "m2d.devices": 0,
    "m2d.cache_root": 0,
    "m2d.lock": 0,
    "m2d.stop": 0,
    "m2d.ending": 0,
    "m2d.garbage": 0,
    "m2d.windows": 0,
    "m2d.joins": 0,
    "m2d.enlarging": 0,
    "m2d.fit": 0,
    "m2d.limits": 0,
    "m2d.placement.modes": 0,
    "m2d.placement.cards": 0,
    "m2d.tensor_files": 1,
    "m2d.recipe": 1,
    "m2d.video": 1,
    "m2d.saved_tensors": 2,
    "m2d.model": 2,
    "m2d.diffusion": 2,
    "m2d.puppet": 2,
    "m2d.placement": 2,
    "m2d.placement.needs": 3,
    "m2d.placement.quantize": 3,
    "m2d.families": 3,
    "m2d.placement.prediction": 4,
    "m2d.backend": 4,
    "m2d.backend_checks": 4,
    "m2d.registry": 5,
    "m2d.recipe.plan": 5,
    "m2d.recipe.plan_loras": 5,
    "m2d.recipe.plan_defaults": 5,
    "m2d.pipeline": 6,
    "m2d.film": 7,
    "m2d.methods": 7,
    "m2d.data": 7,
    "m2d.training": 8,
    "m2d.evaluation": 8,
    "m2d.curation": 8,
    "m2d.puppet.training": 8,
    "m2d.puppet.story_scores": 8,
    "m2d.puppet.dataset_files": 8,
    "m2d.puppet.film_files": 8,
    "m2d.tasks": 9,
    "m2d.library": 10,
    "m2d.cli": 10,
    "m2d": 11,
    "m2d.__main__": 11,
}
"""A module has the row of its longest prefix here. `m2d` itself imports the library's names when they are
first used, so it lies on top; its own content is its version, which every module may import."""

SIDEWAYS = {
    ("m2d.diffusion", "m2d"),
    ("m2d.video", "m2d"),
    ("m2d.puppet", "m2d.model"),
    ("m2d.puppet", "m2d.training"),
    ("m2d.puppet", "m2d.evaluation"),
    ("m2d.curation", "m2d.evaluation"),
}
"""Packages that may import another package of the same row: the puppet model is built from the model's parts;
its trainings and scores use the general trainer and the bootstrap intervals. Sampler states are tensors."""

HEAVY = {"torch", "diffusers", "transformers", "accelerate"}
TORCH_FREE = {"m2d.puppet.vocabulary", "m2d.puppet.captions", "m2d.recipe.plan"}
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# Reads the weights of pinned packages; its unpicklers admit arrays and tensors alone.
READS_ARRAYS = "m2d.evaluation.network_files"
UNSAFE_CALLS = {"torch.load", "torch.hub", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported name: where, what, and whether it happens as soon as the file is imported."""

    place: str
    importer: str
    target: str
    is_immediate: bool


def module_name(path: Path) -> str:
    relative = path.relative_to(ROOT / "backends" if BACKENDS in path.parts else ROOT)
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def sources() -> dict[str, tuple[Path, ast.Module]]:
    paths = [*(ROOT / "m2d").rglob("*.py"), *(ROOT / "backends" / BACKENDS).rglob("*.py")]
    return {
        module_name(path): (path, ast.parse(path.read_text("utf-8"), str(path))) for path in sorted(paths)
    }


def package_of(module: str, path: Path) -> str:
    return module if path.name == "__init__.py" else module.rpartition(".")[0]


def imported_names(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in {"import_module", "__import__"}:
        return [
            arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
        ]
    return []


def walk(node: ast.AST, *, is_immediate: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs as soon as the module is imported."""
    yield node, is_immediate
    is_deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    is_for_types = isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING")
    for child in ast.iter_child_nodes(node):
        yield from walk(child, is_immediate=is_immediate and not is_deferred and not is_for_types)


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def resolved(name: str) -> str:
    """`m2d.layout.SceneLayout` -> `m2d.layout`: the module of ours that an imported name is in."""
    while name not in sources() and "." in name and name.split(".")[0] in {"m2d", BACKENDS}:
        name = name.rpartition(".")[0]
    return name


@cache
def imports() -> tuple[Import, ...]:
    return tuple(
        Import(
            place=f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}",
            importer=module,
            target=resolved(name),
            is_immediate=is_immediate,
        )
        for module, (path, tree) in sources().items()
        for node, is_immediate in walk(tree)
        for name in imported_names(node, package_of(module, path))
    )


def prefix_of(module: str) -> str:
    if module == "m2d":
        return module
    known = [prefix for prefix in ROWS if prefix != "m2d" and (module + ".").startswith(prefix + ".")]
    return max(known, key=len, default="")


def top(module: str) -> str:
    return module.split(".")[0]


def package_in(module: str) -> str:
    """`m2d.video.read` -> `m2d.video`; modules that lie in `m2d/` itself form one package too."""
    parts = module.split(".")
    return ".".join(parts[:2]) if (ROOT / "/".join(parts[:2])).is_dir() else parts[0]


def is_allowed(importer: str, target: str) -> bool:
    row, target_row = ROWS[prefix_of(importer)], 0 if target == "m2d" else ROWS[prefix_of(target)]
    packages = (package_in(importer), package_in(target))
    return target_row < row or (target_row == row and (packages[0] == packages[1] or packages in SIDEWAYS))


def describe(wrong: list[Import]) -> str:
    return "\n".join(f"{each.place}: {each.importer} imports {each.target}" for each in wrong)


def test_every_module_has_a_row() -> None:
    homeless = [module for module in sources() if top(module) == "m2d" and not prefix_of(module)]
    assert not homeless, f"give these a row in ROWS: {homeless}"


def test_imports_go_downwards_only() -> None:
    ours = [each for each in imports() if top(each.importer) == "m2d" and top(each.target) == "m2d"]
    wrong = [each for each in ours if not is_allowed(each.importer, each.target)]
    assert not wrong, describe(wrong)


def circles() -> list[list[str]]:
    """Groups of modules that import each other, directly or through others; imports for types count, too."""
    edges: dict[str, set[str]] = {module: set() for module in sources()}
    for each in imports():
        # `m2d` imports its names when they are first used; modules below it need its version alone.
        if each.target in edges and each.target not in (each.importer, "m2d"):
            edges[each.importer].add(each.target)
    reached = {module: reachable(module, edges) for module in edges}
    groups = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in edges
        if module in reached[module]
    }
    return sorted(sorted(group) for group in groups)


def reachable(module: str, edges: dict[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = list(edges[module])
    while pending:
        current = pending.pop()
        if current not in found:
            found.add(current)
            pending += edges[current]
    return found


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not circles(), "\n".join(" <-> ".join(group) for group in circles())


def test_a_circle_is_recognised() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}
    assert reachable("a", edges) == {"a", "b", "c", "d"}
    assert "d" not in reachable("d", edges)


def test_backends_import_nothing_above_the_protocols() -> None:
    ours = [each for each in imports() if top(each.importer) == BACKENDS and top(each.target) == "m2d"]
    wrong = [each for each in ours if ROWS[prefix_of(each.target)] > BACKEND_ROW]
    assert not wrong, describe(wrong)


def test_nobody_imports_a_backend() -> None:
    wrong = [each for each in imports() if top(each.target) == BACKENDS and top(each.importer) != BACKENDS]
    assert not wrong, describe(wrong)


def test_row_zero_needs_the_standard_library_and_numpy_only() -> None:
    known = {*sys.stdlib_module_names, "numpy", "m2d"}
    row_zero = [each for each in imports() if ROWS.get(prefix_of(each.importer)) == 0]
    wrong = [each for each in row_zero if top(each.target) not in known]
    assert not wrong, describe(wrong)


def test_recipes_videos_and_words_of_the_puppet_theatre_need_no_torch() -> None:
    wrong = [
        each
        for each in imports()
        if (ROWS.get(prefix_of(each.importer)) == 1 or each.importer in TORCH_FREE)
        and (top(each.target) in HEAVY or each.target.startswith("safetensors.torch"))
    ]
    assert not wrong, describe(wrong)


def test_only_the_console_imports_rich_and_only_the_cli_imports_typer() -> None:
    wrong = [
        each
        for each in imports()
        if (top(each.target) == "rich" and each.importer != "m2d.cli.console")
        or (top(each.target) in {"typer", "click"} and prefix_of(each.importer) != "m2d.cli")
    ]
    assert not wrong, describe(wrong)


def test_nothing_is_unpickled() -> None:
    others = [each for each in imports() if each.importer != READS_ARRAYS]
    wrong = [each for each in others if top(each.target) in UNPICKLERS]
    wrong += [each for each in imports() if any(f"{each.target}.".startswith(f"{c}.") for c in UNSAFE_CALLS)]
    assert not wrong, describe(wrong)


def unsafe_call(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute) and dotted(node) in UNSAFE_CALLS:
        return dotted(node)
    if isinstance(node, ast.Call) and dotted(node.func) in {"eval", "exec"}:
        return dotted(node.func)
    is_refusal = (
        isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant) and node.value.value is False
    )
    if isinstance(node, ast.keyword) and node.arg in {"trust_remote_code", "allow_pickle"} and not is_refusal:
        return node.arg
    return "trust_remote_code" if isinstance(node, ast.Constant) and node.value == "trust_remote_code" else ""


@pytest.mark.parametrize(
    "text",
    [
        "torch.load('x', weights_only=True)",
        "yaml.load(text)",
        "eval(text)",
        "make(trust_remote_code=True)",
        "make(trust_remote_code=wanted)",
        "make(**{'trust_remote_code': True})",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_unsafe_calls_are_recognised(text: str) -> None:
    assert any(unsafe_call(node) for node in ast.walk(ast.parse(text)))


def test_no_unsafe_call_is_made() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}: {unsafe_call(node)}"
        for path, tree in sources().values()
        for node in ast.walk(tree)
        if unsafe_call(node)
    ]
    assert not wrong, "\n".join(wrong)


def packages_above(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def immediate_closure(module: str) -> set[str]:
    """What importing `module` imports at once, seen through our own modules and the packages above them."""
    reached: set[str] = set()
    pending = [module]
    while pending:
        current = pending.pop()
        if current in reached:
            continue
        reached.add(current)
        pending += packages_above(current)
        pending += [each.target for each in imports() if each.importer == current and each.is_immediate]
    return reached


def test_no_cli_module_imports_torch_unless_a_command_runs() -> None:
    heavy = {
        module: {top(name) for name in immediate_closure(module)} & HEAVY
        for module in sources()
        if prefix_of(module) == "m2d.cli"
    }
    assert not any(heavy.values()), {module: names for module, names in heavy.items() if names}


@pytest.mark.parametrize(
    "module", ["m2d.cli.main", "m2d.layout", "m2d.recipe.loader", "m2d.puppet.captions", "m2d.film.outputs"]
)
def test_importing_pulls_in_no_torch(module: str) -> None:
    if module not in sources():
        pytest.skip(f"{module} is not written yet")
    program = f"import sys, {module}; sys.exit(', '.join({HEAVY!r} & sys.modules.keys()) or 0)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, f"importing {module} failed or pulled in: {done.stderr}"


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("m2d.layout", "m2d.masks", True),
        ("m2d.layout", "m2d.recipe.schema", False),
        ("m2d.recipe.plan", "m2d.recipe.schema", True),
        ("m2d.recipe.loader", "m2d.recipe.plan", False),
        ("m2d.video.read", "m2d.recipe.loader", False),
        ("m2d.puppet.weights", "m2d.model.pixels", True),
        ("m2d.model.pixels", "m2d.families.source", False),
        ("m2d.families.cogvideox.vae", "m2d.backend", False),
        ("m2d.diffusion.denoise", "m2d.backend", False),
        ("m2d.tasks.generate", "m2d.registry", True),
        ("m2d.training.trainer", "m2d.tasks.train", False),
        ("m2d.training.trainer", "m2d.puppet.training.vae", False),
        ("m2d.puppet.training.vae", "m2d.training.optim", True),
        ("m2d.puppet.stage", "m2d.puppet.training.vae", False),
    ],
)
def test_rows_read_as_intended(importer: str, target: str, allowed: bool) -> None:
    assert is_allowed(importer, target) is allowed
