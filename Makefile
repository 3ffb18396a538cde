# TicketBoss: everything a developer does is one `make` away. Needs Python 3.10 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/run ## Serve on http://127.0.0.1:8080 (PORT, HOST, DATABASE_URL, EVENT_ID, TICKETBOSS_DATA)
	@exec $(BIN)/gunicorn -c python:ticketboss.gunicorn_conf

.PHONY: dev
dev: $(VENV)/run ## Serve with readable logs, and reload on every change
	@LOG_FORMAT=text exec $(BIN)/python -m ticketboss.development

.PHONY: test
test: $(VENV)/test ## Run the tests, on a PostgreSQL of their own
	@$(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/test ## Check the style of the code
	@$(BIN)/ruff check .

.PHONY: verify
verify: $(VENV)/run ## Replay the ledger of every event against its numbers
	@$(BIN)/flask --app wsgi verify

.PHONY: clean
clean: ## Remove the virtual environment and build products, but no data
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# One stamp for what serving needs, one for what testing needs on top of it.
$(VENV)/run: extra = embedded
$(VENV)/test: extra = test
$(VENV)/run $(VENV)/test: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "TicketBoss needs Python 3.10 or newer: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(extra)]'
	@touch $@
