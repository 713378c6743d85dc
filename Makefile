# The environment is made once, in .venv, from pyproject.toml and requirements.txt. PYTHON=python3.12 make … picks another.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: train test lint clean
.DEFAULT_GOAL := help

help:
	@echo "make train   train an i-FPN detector on built-in data and evaluate it (about five minutes on two CPU cores)"
	@echo "make test    run the tests"
	@echo "make lint    ruff and mypy"
	@echo "make clean   remove the environment"

$(VENV)/ready: pyproject.toml requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"ifpn needs Python 3.11 or 3.12, $(PYTHON) is {v[0]}.{v[1]}: PYTHON=python3.11 make …")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	@# What is silenced is setuptools' notice about editable installs, meant for authors of packages.
	PYTHONWARNINGS=ignore $(PY) -m pip install --quiet --editable '.[dev]'
	@touch $@

train: $(VENV)/ready
	$(PY) train.py recipe=quick

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile

lint: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV)
