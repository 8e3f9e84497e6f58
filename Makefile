# All set-up on a fresh machine is `make demo` and `make test`; each makes the virtual environment if there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
TWO := --numprocesses 2 --dist worksteal
FAST := -m 'not slow' $(TWO)
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
export FLWR_TELEMETRY_ENABLED := 0
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help install demo deploy-demo test test-slow test-lowest check format docs notebooks bench results clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(STAMP)  ## make .venv and install the package with its development tools
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "mosaic needs Python 3.11 or newer; try make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)  ## run the whole method on handwritten digits, about two minutes on two CPU cores
	$(BIN)/mosaic fit --config configs/digits.yaml --config configs/generators/both.yaml --federation.run_dir $(RUN)

deploy-demo: $(STAMP)  ## run a federation over Flower on this machine, and its simulation, about five minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[flower]'
	$(BIN)/python -m mosaic.deployment.trial

test: $(STAMP)  ## run the fast tests, three minutes on two CPU cores
	$(BIN)/python -m pytest $(FAST)

test-slow: $(STAMP)  ## run all other tests, those of notebooks and of Ray among them, about an hour on two CPU cores
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs,ray,flower]'
	$(BIN)/python -m pytest -m 'slow or not slow' tests/executors/test_executors.py
	$(BIN)/python -m pytest -m slow $(TWO) --ignore tests/executors/test_executors.py

test-lowest:  ## run the fast tests with the lowest versions that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --editable '.[dev]'
	$(LOWEST)/bin/python -m pytest $(FAST) --override-ini filterwarnings=default  # new packages deprecate what old ones call

check: $(STAMP)  ## lint, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(STAMP)  ## apply the linter's fixes and the formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(STAMP)  ## build the documentation site into build/site; needs no network once its tools are installed
	$(BIN)/python -c 'import material, mathjax, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

notebooks: $(STAMP)  ## run the notebooks' scripts and store what they print and draw, about ten minutes
	$(BIN)/python docs/tools/run_notebooks.py

bench: $(STAMP)  ## measure how fast everything is beside plain loops, about ten minutes; writes benchmarks/results.md
	$(BIN)/python benchmarks/bench.py

results: $(STAMP)  ## run every algorithm as docs/results.md reports, what is not there yet: hours, needs MOSAIC_DATA
	$(BIN)/python benchmarks/results.py run
	$(BIN)/python benchmarks/results.py table

clean:  ## remove the environment and caches; runs are kept
	rm -rf $(VENV) $(LOWEST) .mypy_cache .pytest_cache .ruff_cache build dist
