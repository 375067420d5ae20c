# On a fresh machine with Python 3.11 or newer:
#   make demo    makes the environment and upscales the example pages
#   make test    makes the environment and runs the whole test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint format docs environment clean

environment: $(READY)

$(READY): pyproject.toml constraints.txt scripts/set_up.sh
	PYTHON="$(PYTHON)" scripts/set_up.sh "$(VENV)"
	touch $@

demo: $(READY)
	scripts/demo.sh "$(BIN)"

test: $(READY) lint
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --durations 25
	scripts/check_wheel.sh $(BIN)/python

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)
	$(BIN)/python -m zensical build --strict

clean:
	rm -rf "$(VENV)" build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis examples/pages-x*
