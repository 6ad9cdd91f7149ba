# `make demo` and `make test` each do the whole set-up by themselves.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint setup long clean

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: .venv/.ready

demo: setup
	mkdir -p out
	$(BIN)/m2d generate recipes/stories/first-snow.yaml --out out/first-snow.mp4 --force
	@echo "Open out/first-snow.mp4, and out/first-snow.m2d/sheet.png for all scenes at a glance."

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process per core, of one thread each: torch processes that share cores slow each other down.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

long: setup
	$(BIN)/python -m pytest -m long

clean:
	rm -rf .venv out dist build
