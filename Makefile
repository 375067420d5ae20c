# On a fresh machine with Python 3.11 or newer:
#   make demo    makes the environment and upscales the example pages
#   make test    makes the environment and runs the whole test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test suite wheel lint format docs environment clean

environment: $(READY)

$(READY): pyproject.toml constraints.txt scripts/set_up.sh
	PYTHON="$(PYTHON)" scripts/set_up.sh "$(VENV)"
	touch $@

demo: $(READY)
	scripts/demo.sh "$(BIN)"

# The check of the wheel mostly waits for downloads, so it runs beside the tests.
test: $(READY)
	$(MAKE) --jobs=3 lint suite wheel

# Many tests wait for other programs, so six processes keep two cores busy. Threads of PyTorch that wait sleep, and
# leave the cores to the others. What the processes import is compiled once, by the first one, also where the
# environment asks for no bytecode.
SUITE := env -u PYTHONDONTWRITEBYTECODE OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest
suite: $(READY)
	$(SUITE) --collect-only --quiet --quiet >/dev/null || true
	$(SUITE) --numprocesses 6 --dist worksteal --durations 25

wheel: $(READY)
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
