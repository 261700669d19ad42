# `make install`, or the first use of a target that needs it, makes .venv and installs everything into
# it, in the versions of constraints.txt. After that only docs, bench and minimum need a network: they
# install what they alone use.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
INSTALLED := .venv/.installed
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline WANDB_SILENT=true
RUN := $(OFFLINE) $(BIN)/python -m saliency_lab
DEMO := data=shapes data.batch_size=64 scheduler=cosine trainer.max_epochs=14 trainer.threads=1

.PHONY: help install demo test check docs minimum format mutants bench clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## everything into .venv; activate it with: . .venv/bin/activate
	@echo 'Installed into .venv; to use it here: . .venv/bin/activate'

demo: $(INSTALLED) ## train on the embedded data set, compute maps, measure them, show the page
	$(RUN) train $(DEMO)
	$(RUN) explain $(DEMO)
	$(RUN) evaluate $(DEMO) method=five_views data.limit=500
	$(RUN) report

test: $(INSTALLED) ## all tests
	OMP_NUM_THREADS=1 $(OFFLINE) $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

check: $(INSTALLED) ## format, lint, types, direction of imports, links and public names in the docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/documentation/test_pages.py

docs: $(INSTALLED) ## the documentation site, in site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-e ".[docs]" -c constraints.txt
	$(OFFLINE) $(BIN)/python -m mkdocs build --strict

# An environment of its own, with the lowest version that pyproject.toml allows of each dependency.
minimum: ## all tests with the lowest versions of all dependencies
	$(PYTHON) -m venv --clear .venv-minimum
	$(PYTHON) -m tests.packaging.lowest > .venv-minimum/lowest.txt
	.venv-minimum/bin/python -m pip install --quiet --disable-pip-version-check \
		-e ".[dev]" -c .venv-minimum/lowest.txt
	OMP_NUM_THREADS=1 $(OFFLINE) .venv-minimum/bin/python -m pytest -n $(WORKERS) $(TESTS)

format: $(INSTALLED) ## rewrite the sources in the one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

mutants: $(INSTALLED) ## make small wrong changes in a copy, see that the tests notice each (docs/testing.md)
	$(BIN)/python -m tests.mutants --workers $(WORKERS) $(MUTANTS)

bench: $(INSTALLED) ## speed: training, processes and, with SALIENCY_LAB_DATA=DIR, attribution against peers
	-$(BIN)/python -m benchmarks.start
	-$(BIN)/python -m benchmarks.training --images 10000
	-$(BIN)/python -m benchmarks.processes --images 2000
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-e ".[bench]" -c constraints.txt
	$(if $(SALIENCY_LAB_DATA),-$(BIN)/python -m benchmarks.classes)
	$(if $(SALIENCY_LAB_DATA),$(BIN)/python -m benchmarks)

clean: ## forget the environment and the tools' caches (outputs/ stays)
	rm -rf .venv .venv-minimum site .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

# The stamp is written last: an installation that was interrupted is taken up again, and one that
# cannot be taken up is made anew.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-e ".[dev,launchers]" -c constraints.txt
	@touch $@
