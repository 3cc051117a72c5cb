# Every target sets up what it needs (scripts/setup.sh); a second call finds it done.
SHELL := /bin/bash
PY := .venv/bin/python
# Two processes: on two idle cores they take two thirds of the time of one.
PYTEST := $(PY) -m pytest -n 2 --dist worksteal --timeout=600
# Arguments for pytest, for instance: make test ARGS="-k digest -x"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup env demo test slow oracle lint format lock wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' \
	    | while IFS=$$'\t' read -r name text; do printf '  make %-8s %s\n' "$$name" "$$text"; done

env:
	@scripts/setup.sh

setup: env ## virtual environment, system libraries, locked dependencies, ucaudit itself
	@echo "ready: $(PY)"

demo: env ## the main job, end to end, on a real model
	$(PY) scripts/demo.py $(ARGS)

test: env ## the fast tests
	$(PYTEST) $(ARGS)

slow: env ## the slow tests: wheel, clean environments, start-up time, real models
	$(PYTEST) -m "slow and not alone" $(ARGS)
	$(PYTEST) -n 0 -m alone

oracle: env ## the checks against third-party tools
	$(PYTEST) -m oracle $(ARGS)

lint: env ## style, types, import direction; schemas, auditor's page and README current
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) scripts/schemas.py --check
	$(PY) scripts/auditor_page.py --check
	$(PY) scripts/readme.py --check

format: env ## let ruff rewrite what it can
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

lock: ## pin the dependencies again (ARGS=--upgrade moves them to the newest)
	scripts/lock.sh $(ARGS)

wheel: env ## build the wheel into dist/
	$(PY) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

clean: ## remove what was built and cached here; .venv and the demo's output stay
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find ucaudit tests scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
