# `make demo` and `make test` set up what they need in .venv; only Python 3.11 to 3.13 must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast test-export test-cloud test-beam soak lint

demo: $(VENV)/installed
	$(BIN)/python -m demo

# Two workers: a test is mostly one thread of compiling. Neighbours stay together, for what they share.
PYTEST := -m pytest --numprocesses=2 --dist=worksteal

test: $(VENV)/installed-test
	$(BIN)/python $(PYTEST)

test-fast: $(VENV)/installed-test
	$(BIN)/python $(PYTEST) -m "not slow"

test-export: $(VENV)/installed-export
	$(BIN)/python $(PYTEST) tests/export

test-cloud: $(VENV)/installed-cloud
	$(BIN)/python $(PYTEST) tests/cloud

test-beam: $(VENV)-beam/installed
	$(VENV)-beam/bin/python -m pytest tests/beam

# All trials take hours. MINUTES is the length of the trial `faults`.
MINUTES ?= 10
soak: $(VENV)/installed
	$(BIN)/python -m tests.soak --minutes=$(MINUTES)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# TensorFlow has no wheels for Python 3.14, JAX none for 3.10.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  way="install Python 3.12, then: make PYTHON=python3.12 $(MAKECMDGOALS)"; \
	  for name in python3.11 python3.13 python3.12; do \
	    $$name -c "" 2>/dev/null && way="make PYTHON=$$name $(MAKECMDGOALS)"; done; \
	  echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); the pinned packages need 3.11 to 3.13: $$way"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed-test: requirements-test.txt requirements.txt $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@ $(VENV)/installed

$(VENV)/installed-cloud: requirements-cloud-test.txt requirements-cloud.txt $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet -r requirements-cloud-test.txt
	touch $@

# torchvision, which tests compare with, fits one PyTorch only. In a folder of its own, because where PyTorch is the CPU
# build its operators do not load, and transformers would fail with it.
$(VENV)/installed-export: requirements-export.txt Makefile $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet -r requirements-export.txt
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/torchvision torchvision==0.28.0
	touch $@

# An environment of its own: Beam needs older versions than requirements.txt.
$(VENV)-beam/installed: requirements-beam.txt
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/python -m pip install --quiet -r requirements-beam.txt $$(grep ^pytest== requirements-test.txt)
	touch $@
