PYTHON ?= python3
RUN := .venv/bin/python

.PHONY: roadmap test proof checklist strength golden bench setup lint

# Set up, run every spec, show the roadmap.
roadmap: setup
	@$(RUN) -m pytest

# What must be green before anything lands.
test: setup lint
	@echo "== machinery's own tests"
	@$(RUN) -m pytest -q tools/tests
	@echo "== specs"
	@$(RUN) -m pytest --hypothesis-profile=ci
	@echo "== specs of the tuned forms"
	@$(RUN) -m pytest --hypothesis-profile=ci --impl fast
	@echo "== checklist"
	@$(RUN) -m tools checklist
	@echo "== golden values"
	@$(RUN) -m tools golden --installed
	@echo "== golden values along other processors' code paths"
	@$(RUN) -m tools processors
	@echo "== peers: other people's correct code must be accepted"
	@$(RUN) -m tools peers

# What the checks rest on: known mistakes must still be killed by the specs that are recorded as killing them.
proof: setup
	@echo "== bugs"
	@$(RUN) -m tools strength --recorded

lint: setup
	@echo "== lint"
	@$(RUN) -m ruff check --quiet .
	@$(RUN) -m ruff format --quiet --check .
	@$(RUN) -m tools lint

# Run every spec and write CHECKLIST.md and README's counts from what they said.
checklist: setup
	@$(RUN) -m pytest
	@$(RUN) -m tools checklist --update

# Which bugs do the specs catch, whom do they accept, is a failure named rightly, is every guard tested, and do the
# specs hold where torch finds the least of a processor?
strength: setup
	@$(RUN) -m tools strength
	@$(RUN) -m tools peers
	@$(RUN) -m tools diagnosis
	@$(RUN) -m tools guards
	@$(RUN) -m tools processors --specs --cell ATEN_CPU_CAPABILITY=default

# Re-derive every golden value, in an environment of its own with the oracles (3 GB).
golden:
	@command -v $(PYTHON) >/dev/null || { echo "set-up stopped: no $(PYTHON) found; Python 3.11 or newer is needed" >&2; exit 1; }
	@$(PYTHON) tools/install.py oracles
	@.venv-oracles/bin/python -m tools golden

# Our layers beside the libraries', same machine, same run.
bench: setup
	@$(RUN) -m tools bench

setup:
	@command -v $(PYTHON) >/dev/null || { echo "set-up stopped: no $(PYTHON) found; Python 3.11 or newer is needed" >&2; exit 1; }
	@$(PYTHON) tools/install.py test
