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
	@echo "make figures    draw the pictures of the documentation again (RUN=runs/…: those of a run, too)"
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
	$(BIN)/ifpn train recipe=quick

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

# RUN=runs/… draws the pictures of a run, too: make train first.
figures: $(VENV)/ready
	$(BIN)/python scripts/draw_method.py $(if $(RUN),--run $(RUN))
	$(BIN)/python -m benchmarks.plot_solver
	$(BIN)/python -m benchmarks.plot_neck_memory
	$(if $(RUN),cp $(RUN)/samples.png $(RUN)/convergence.png docs/images/)
	$(if $(RUN),$(BIN)/python report.py evaluations ckpt=$(RUN)/best.ckpt out=docs/images)

notebooks: $(VENV)/ready
	$(BIN)/python scripts/build_notebooks.py

bench: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bench_solver
	$(BIN)/python -m benchmarks.bench_step --random

# uv is not part of the environment: pip install uv. The lock keeps to the torch that the tests ran with.
lock:
	echo 'torch<2.15' | uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--custom-compile-command 'make lock' --upgrade requirements.txt --constraint - --output-file requirements.lock
	uv pip compile --quiet --resolution lowest-direct --python-version 3.11 --python-platform x86_64-manylinux_2_28 --no-annotate \
		--custom-compile-command 'make lock' --upgrade requirements.txt --output-file requirements-lowest.txt

clean:
	rm -rf $(VENV) site
