# make app      install and serve the app on http://127.0.0.1:7860
# make test     install and check everything; the last line is pytest's
# make lint     format, lint, layers and types
# make gpu-wheels   the wheels an offline GPU machine may lack, into .whl/
# make clean    remove caches and build folders (clean-venv removes the environment too)

SHELL := /bin/bash
.DEFAULT_GOAL := app
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: app install test lint format types browser gpu-wheels wheel clean clean-venv

app: $(STAMP)
	$(BIN)/workbench app $(ARGS)

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install -q -c constraints.txt -e ".[app,notebooks,dev]"
	@touch $(STAMP)

test: $(STAMP) browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

lint: $(STAMP) types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo

types: $(STAMP)
	$(BIN)/pyright

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Browser tests drive Debian's Chromium. Without it they skip and say so.
browser:
	@if [ ! -x /usr/bin/chromium ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing chromium for the browser tests"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	      apt-get install -y -qq --no-install-recommends chromium; } </dev/null >/dev/null 2>&1 \
	    || echo "chromium could not be installed: browser tests will skip"; \
	fi

# For a machine without network that has torch, transformers, numpy and the like, but not these.
GPU_WHEELS := diffusers pydantic pydantic_core annotated-types typing-inspection typing_extensions resvg_py
gpu-wheels: $(BIN)/python
	rm -rf .whl && mkdir .whl
	$(BIN)/pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp --abi cp312 \
	    --abi abi3 --abi none $(foreach p,_2_28 _2_27 _2_17 2014 1,--platform manylinux$(p)_x86_64) --platform any \
	    -d .whl \
	    $(foreach p,$(GPU_WHEELS),$(shell grep -E '^$(p)==' constraints.txt))
	@bytes=$$(cat .whl/*.whl | wc -c); echo "$$(ls .whl | wc -l) wheels, $$bytes bytes in .whl/"; \
	    [ $$bytes -le 10485760 ] || { echo "more than 10 MiB together"; exit 1; }

wheel: $(STAMP)
	$(BIN)/python -m build --wheel --no-isolation

clean:
	rm -rf build dist .whl .pytest_cache .ruff_cache .import_linter_cache .gradio *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

clean-venv: clean
	rm -rf .venv
