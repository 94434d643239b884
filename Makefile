# `make demo` and `make test` set up all they need in .venv; nothing but Python >= 3.11 must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-export test-beam soak lint

demo: $(VENV)/installed
	$(BIN)/python -m demo

# Two workers: a test is mostly one thread of compiling. Neighbours stay together, for what they share.
PYTEST := -m pytest --numprocesses=2 --dist=worksteal

test: $(VENV)/installed-test
	$(BIN)/python $(PYTEST)

test-export: $(VENV)/installed-export
	$(BIN)/python $(PYTEST) tests/export

test-beam: $(VENV)-beam/installed
	$(VENV)-beam/bin/python -m pytest tests/beam

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# An environment of its own: Beam wants older versions than requirements.txt has.
$(VENV)-beam/installed: requirements-beam.txt
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/python -m pip install --quiet -r requirements-beam.txt $$(grep ^pytest== requirements-test.txt)
	touch $@

$(VENV)/installed: requirements.txt $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-export: requirements-export.txt $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet -r requirements-export.txt
	touch $@

$(VENV)/installed-test: requirements-test.txt requirements.txt $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@ $(VENV)/installed

# All trials: hours. MINUTES is of the trial `faults`.
MINUTES ?= 10
soak: $(VENV)/installed
	$(BIN)/python -m tests.soak --minutes=$(MINUTES)
