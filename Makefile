# make demo      train and evaluate on the embedded digits
# make test      the quick tests; make test-all: also the slow ones
# make lint      style; make format applies it
# make docs      guides and reference as pages in build/docs
# make lock      new exact versions for requirements.lock and requirements-beam.lock

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Apache Beam needs older versions of some packages, so it has a place of its own.
BEAM := .venv-beam
DEMO := runs/demo

.PHONY: demo test test-all lint format docs lock clean

demo: $(INSTALLED)
	$(BIN)/python train.py --config=configs/semantic_softmax.py:digits --workdir=$(DEMO)
	$(BIN)/python eval.py --workdir=$(DEMO)

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2

test-all: $(INSTALLED) $(BEAM)/.installed lint
	$(BIN)/python -m pytest -n 2 -m ""
	$(BEAM)/bin/python -m pytest -m "" tests/data/test_beam.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c requirements.lock -e ".[docs]"
	rm -rf docs/reference
	$(BIN)/python -m sphinx -q -W -b html docs build/docs

$(INSTALLED): requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c requirements.lock -e ".[test]"
	touch $@

$(BEAM)/.installed: requirements-beam.lock setup.cfg pyproject.toml
	$(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/python -m pip install --quiet -c requirements-beam.lock -e ".[test,beam]"
	touch $@

COMPILE := $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --no-header \
  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-tools
	$(COMPILE) --extra test --extra docs --upgrade -o requirements.lock setup.cfg
	cp requirements.lock requirements-beam.lock
	$(COMPILE) --extra test --extra beam -o requirements-beam.lock setup.cfg

clean:
	rm -rf $(VENV) $(BEAM) runs build *.egg-info
