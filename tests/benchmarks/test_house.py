from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.house import count_words, find_circles, measure

FUNCTION = "def greet(self, first, *, second):\n    return first\n"


def checkout(root: Path, **files: str) -> Path:
    """Write a small checkout; `__` in a name stands for a slash."""
    for name in ("m2d/cli", "m2d/tasks", "backends/m2d_backends", "benchmarks", "docs"):
        (root / name).mkdir(parents=True)
    (root / "README.md").write_text("")
    for name, text in files.items():
        (root / f"{name.replace('__', '/')}.py").write_text(text)
    return root


def test_lines_functions_and_parameters_are_counted_with_their_place(tmp_path: Path) -> None:
    flags = ", ".join(f"flag_{number}" for number in range(20))
    report = measure(
        checkout(
            tmp_path,
            m2d__tasks__one=FUNCTION,
            m2d__two=FUNCTION * 3,
            m2d__cli__make=f"def make({flags}): ...\n",
        )
    )
    assert (report["files"], report["lines"], report["task_lines"]) == (3, 9, 2)
    assert (report["longest_file"], report["longest_function"], report["most_parameters"]) == (6, 2, 2)
    assert report["where"]["longest_file"] == ["m2d/two.py"]
    assert report["where"]["most_parameters"] == ["m2d/tasks/one.py:greet"]


def test_words_are_counted_in_prose_and_not_in_names(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("It tells nobody what is told of it, and goes on with it. Go on.")
    # `what is told of it` is one.
    assert count_words(page) == 4
    code = tmp_path / "code.py"
    code.write_text('"""Told."""\ntold = tell("x")  # anew\n')
    assert count_words(code) == 2


def test_the_counter_does_not_count_itself() -> None:
    assert count_words(Path(__file__).parents[2] / "benchmarks" / "house.py") == 0


@pytest.mark.parametrize(
    ("imports", "circles"),
    [
        ({"a": ["b"], "b": ["c"], "c": []}, []),
        ({"a": ["b"], "b": ["a"], "c": ["a"]}, [{"a", "b"}]),
        ({"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]}, [{"a", "b"}, {"c", "d"}]),
    ],
)
def test_every_circle_is_found(imports: dict[str, list[str]], circles: list[set[str]]) -> None:
    assert [set(found.split(" -> ")) for found in sorted(find_circles(imports))] == circles


def test_a_circle_is_found_also_through_imports_for_types_and_in_functions(tmp_path: Path) -> None:
    report = measure(
        checkout(
            tmp_path,
            m2d__one=f"if TYPE_CHECKING:\n    from m2d.two import x\n{FUNCTION}",
            m2d__two="def later():\n    import m2d.one\n",
        )
    )
    assert report["import_circles"] == 1
