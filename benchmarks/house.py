"""The size and readability of m2d's own code, against the limits that the project set itself.

Run: `python -m benchmarks.house`. Writes `benchmarks/results/house.json` and fails if a limit is missed. It
only reads source files. Lines, functions, parameters and imports are those of `m2d` and `backends`;
parameters in `m2d/cli` are flags and not counted. Vague words (`WORDS`) are counted in the comments and
strings of this code and of the benchmarks, in README.md and in docs.
"""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2d.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "house.json"
LIMITS = {
    "lines": ("Lines of Python in `m2d` and `backends`", 35_000),
    "task_lines": ("Lines of them in `m2d/tasks`", 3_800),
    "longest_file": ("Lines of the longest file", 350),
    "longest_function": ("Lines of the longest function", 80),
    "most_parameters": ("Parameters of a function outside `m2d/cli`", 8),
    "import_circles": ("Import circles", 0),
    "vague_words": ("Vague words (`WORDS` in `benchmarks/house.py`) in code, README and docs", 25),
}
# Words that stand in for a missing noun, each in two parts: this file should not count itself.
WORDS = re.compile(
    r"\b(?:to(?:ld)|te(?:lls?|lling)|(?:no|some)body|who(?:ever)|an(?:ew)|foreto(?:ld)"
    r"|gone (?:on)|go(?:es|ing)? (?:on) (?:from|with)|went (?:on)"
    r"|what (?:is|was|are|were) [a-z ]{0,30}\bof (?:it|them|that|what))\b",
    re.IGNORECASE,
)
_TEXT = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def measure(root: Path) -> dict[str, Any]:
    """Return the figures of a checkout, with the place of each extreme."""
    sources = {path: path.read_text("utf-8") for path in _python_files(root, "m2d", "backends")}
    trees = {path: ast.parse(text) for path, text in sources.items()}
    lines = {str(path.relative_to(root)): text.count("\n") for path, text in sources.items()}
    functions = [(node, path.relative_to(root)) for path, tree in trees.items() for node in _functions(tree)]
    lengths = {f"{path}:{node.name}": _num_lines(node) for node, path in functions}
    parameters = {
        f"{path}:{node.name}": _num_parameters(node)
        for node, path in functions
        if path.parts[:2] != ("m2d", "cli")
    }
    longest_file, longest_function, most = (
        max(figures, key=figures.__getitem__) for figures in (lines, lengths, parameters)
    )
    circles = find_circles(_imports(root, trees))
    prose = [*_python_files(root, "m2d", "backends", "benchmarks"), root / "README.md"]
    prose += sorted((root / "docs").glob("*.md"))
    return {
        "files": len(lines),
        "lines": sum(lines.values()),
        "task_lines": sum(count for name, count in lines.items() if name.startswith("m2d/tasks/")),
        "longest_file": lines[longest_file],
        "longest_function": lengths[longest_function],
        "most_parameters": parameters[most],
        "median_file": statistics.median(lines.values()),
        "median_function": statistics.median(lengths.values()),
        "import_circles": len(circles),
        "vague_words": sum(count_words(path) for path in prose),
        "where": {
            "longest_file": [longest_file],
            "longest_function": [longest_function],
            "most_parameters": [most],
            "import_circles": circles,
        },
    }


def count_words(path: Path) -> int:
    """Count vague words in a page, or in the comments and strings of a Python file."""
    text = path.read_text("utf-8")
    if path.suffix == ".py":
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        text = "\n".join(token.string for token in tokens if token.type in _TEXT)
    return len(WORDS.findall(text))


def find_circles(imports: Mapping[str, Iterable[str]]) -> list[str]:
    """Return circles such as `a -> b -> a`; one import of each is removed before the next is sought."""
    graph = {name: set(others) for name, others in imports.items()}
    found: list[str] = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            # graphlib lists each module before those that import it.
            circle: list[str] = error.args[1][::-1]
            graph[circle[0]].discard(circle[1])
            found.append(" -> ".join(circle))
        else:
            return found


def _imports(root: Path, trees: Mapping[Path, ast.Module]) -> dict[str, set[str]]:
    """Return which modules each module imports, wherever the import stands in the file."""
    names = {path: _module_name(root, path) for path in trees}
    known = set(names.values())
    return {names[path]: set(_imported(tree, known)) - {names[path]} for path, tree in trees.items()}


def _imported(tree: ast.Module, known: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield from ([submodule] if submodule in known else {node.module} & known)


def _module_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    parts = parts[1:] if parts[0] == "backends" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _python_files(root: Path, *folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _num_lines(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _num_parameters(node: Function) -> int:
    given = node.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def main() -> int:
    """Measure, print and write the figures, and fail when a limit is missed."""
    report = measure(ROOT)
    report |= {"limits": {name: limit for name, (_, limit) in LIMITS.items()}, "m2d": version("m2d")}
    write_json(RESULTS, report)
    for name in ("files", "median_file", "median_function"):
        sys.stdout.write(f"{name}: {report[name]:,}\n")
    for name, (_, limit) in LIMITS.items():
        verdict = "met" if report[name] <= limit else "missed"
        sys.stdout.write(f"{name}: {report[name]:,}, at most {limit:,}: {verdict}\n")
        for place in report["where"].get(name, []):
            sys.stdout.write(f"  {place}\n")
    return 0 if all(report[name] <= limit for name, (_, limit) in LIMITS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
