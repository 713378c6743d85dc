# The environment is made once, in .venv, from pyproject.toml and requirements.txt. PYTHON=python3.12 make … picks another.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help train test test-fast lint docs figures notebooks bench lock clean
.DEFAULT_GOAL := help

help:
	@echo "make train      train an i-FPN detector on built-in data and evaluate it (minutes on two CPU cores)"
	@echo "make test       run all tests (under ten minutes on two CPU cores)"
	@echo "make test-fast  run the quick ones (under 90 seconds)"
	@echo "make lint       ruff and mypy"
	@echo "make docs       build the documentation in site/"
	@echo "make figures    draw the pictures of the documentation again"
	@echo "make notebooks  run the notebooks again"
	@echo "make bench      measure the solver, the necks and a training step"
	@echo "make lock       resolve requirements.lock and requirements-lowest.txt again"
	@echo "make clean      remove the environment"

$(VENV)/ready: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"ifpn needs Python 3.11 to 3.13, $(PYTHON) is {v[0]}.{v[1]}: PYTHON=python3.11 make …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

train: $(VENV)/ready
	$(BIN)/ifpn train

test: $(VENV)/ready
	$(PYTEST)

test-fast: $(VENV)/ready
	$(PYTEST) -m "not slow and not process"

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site
