PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && exit; done; echo python3)
EXTRA ?= auto
ARGS ?=

VENV := .venv
READY := $(VENV)/.ready
RUN := $(VENV)/bin/python -m

.DEFAULT_GOAL := help
.PHONY: help setup math compare experiments smoke test check docs bench clean

help:  ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

setup:  ## make .venv (EXTRA=cpu or EXTRA=gpu to choose the engine)
	@$(PYTHON) scripts/setup.py --extra $(EXTRA)

$(READY): pyproject.toml scripts/setup.py
	@$(PYTHON) scripts/setup.py --extra $(EXTRA)

math: $(READY)  ## the main job: record, train, evaluate (ARGS="--set a.b=c")
	$(RUN) mpdf_rllib.train --config tuned_examples/math.yaml $(ARGS)

compare: $(READY)  ## the policy beside other systems, after make math or from nothing (ARGS="--set a.b=c")
	$(RUN) mpdf_rllib.compare --config tuned_examples/compare_math.yaml $(ARGS)

experiments: $(READY)  ## the paper's claims, run again: docs/results.md (ARGS="NAME ..." for some)
	$(RUN) mpdf_rllib.experiment $(ARGS)

smoke: $(READY)  ## the same in two minutes
	$(RUN) mpdf_rllib.train --config tuned_examples/smoke.yaml $(ARGS)

test: $(READY)  ## run the tests; those of the language model one after another, as two engines at once are too much
	$(RUN) pytest -n 2 --dist loadfile -m "not model"
	$(RUN) pytest -m model

check: $(READY)  ## lint, format, types, the documentation and its links
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	@$(MAKE) --no-print-directory docs

docs: $(READY)  ## build the documentation: site/index.html
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

bench: $(READY)  ## measure the speed of recording and training
	$(RUN) mpdf_rllib.bench $(ARGS)

clean:  ## remove .venv and all that was built; runs and recordings stay
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
