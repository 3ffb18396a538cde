# TicketBoss: everything a developer does is one `make` away. Needs Python 3.10 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "run, dev, bench and verify take settings, such as: make run PORT=9000"

.PHONY: run
run: $(VENV)/run ## Serve on http://127.0.0.1:8080, with a PostgreSQL of its own
	@exec $(BIN)/python -m gunicorn -c python:ticketboss.serving.gunicorn_conf

.PHONY: dev
dev: $(VENV)/run ## Serve with readable logs, and start anew on every change
	@exec $(BIN)/python -m ticketboss.serving.development

.PHONY: test
test: $(VENV)/test ## Run the tests, on PostgreSQLs of their own, three at a time
	@$(BIN)/python -m pytest -n 3 --dist loadfile

.PHONY: test-slow
test-slow: $(VENV)/test ## Run the tests that take long
	@$(BIN)/python -m pytest -m slow

.PHONY: test-matrix
test-matrix: $(VENV)/test ## Run the tests on each Python and PostgreSQL that is here
	@exec $(BIN)/python tests/matrix.py

.PHONY: test-faults
test-faults: $(VENV)/test ## Disturb it in every way while the checker is at work, for ten minutes
	@exec $(BIN)/python tests/ordeals.py

.PHONY: test-cluster
test-cluster: $(VENV)/test ## The same over three nodes of PostgreSQL that lose their leader
	@exec $(BIN)/python tests/cluster.py

.PHONY: test-mutants
test-mutants: $(VENV)/test $(VENV)/mutants/installed ## Change the rules here and there: does a test tell?
	@exec $(VENV)/mutants/bin/python tests/mutation/mutants.py $(if $(ONLY),--only $(ONLY))

.PHONY: lint
lint: $(VENV)/test ## Check the style of the code, and its types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

.PHONY: bench
bench: $(VENV)/test ## Measure a hot sale: rates, latencies, conflicts
	@exec $(BIN)/python -m tests.benchmark

.PHONY: bench-rivals
bench-rivals: $(VENV)/test $(VENV)/rivals/installed ## Measure it beside other designs
	@exec $(BIN)/python -m tests.benchmark --rivals

.PHONY: verify
verify: $(VENV)/run ## Replay the ledger of every event against its numbers
	@exec $(BIN)/flask --app wsgi verify

.PHONY: dist
dist: $(VENV)/test ## Build the wheel and the source distribution, and check both
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist .
	@TEST_DIST=dist $(BIN)/python -m pytest tests/test_packaging.py

.PHONY: upgrade
upgrade: $(VENV)/test ## Write the newest releases of all that is used into deploy/locks
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(LOCK) --output-file deploy/locks/serve.txt
	@$(LOCK) --extra embedded --output-file deploy/locks/run.txt
	@$(LOCK) --extra test --output-file deploy/locks/test.txt
	@$(LOCK_ALL) $(RIVALS)/requirements.in --output-file $(RIVALS)/requirements.txt
	@$(LOCK_ALL) $(MUTANTS)/requirements.in --output-file $(MUTANTS)/requirements.txt

LOCK_ALL = $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade \
	--generate-hashes --no-emit-index-url --no-header --no-annotate
LOCK = $(LOCK_ALL) setup.cfg

.PHONY: clean
clean: ## Remove what make made, but no data
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

RIVALS := tests/benchmark/rivals
MUTANTS := tests/mutation

# Environments of their own: nothing of theirs is used anywhere else.
$(VENV)/rivals/installed: $(RIVALS)/requirements.txt
$(VENV)/mutants/installed: $(MUTANTS)/requirements.txt
$(VENV)/%/installed: | $(VENV)/test
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --requirement $<
	@touch $@

# What python3 can do, or nothing: $(call able,<a statement that fails where it cannot>)
able = $(shell $(PYTHON) -c '$(1)' 2>/dev/null && echo yes)

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# One stamp for what serving needs, one for what testing needs on top of it.
# $(error), expanded when the recipe is due, is how make says something in one line.
$(VENV)/run $(VENV)/test: $(VENV)/%: deploy/locks/%.txt setup.cfg pyproject.toml
	$(if $(call able,import sys; assert sys.version_info >= (3, 10)),,$(error \
		TicketBoss needs Python 3.10 or newer: make $(MAKECMDGOALS) PYTHON=/path/to/python3))
	$(if $(call able,import ensurepip; import venv),,$(error \
		$(PYTHON) lacks its venv module (Debian and Ubuntu: apt install python3-venv)))
	@echo "Installing into $(VENV), once; this may take a minute ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes --requirement $<
	@$(PIP) --no-deps --editable .
	@touch $@
