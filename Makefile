# make bench   set everything up, race against torch's DataLoader, run the reference training
# make test    set everything up, run the tests
# make test-all   and those that take long: torch held against the same contract, storms, profiles
# make lint types smoke   what CI runs beside the tests

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# Tests wait for processes more than they compute: two at a time for each core.
AT_A_TIME := $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 2))))
SMOKE := images-uint8 digits tiny-numpy-inline stream tokens pad-dict arrow short-epochs-persistent

.PHONY: bench test test-all lint types smoke clean

bench: $(INSTALLED)
	$(BIN)/fastload bench --json benchmarks/results.json
	$(BIN)/python benchmarks/publish.py
	$(BIN)/fastload train --loader torch --workers 2
	$(BIN)/fastload train --loader fastload --workers 2

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(AT_A_TIME) --dist worksteal

test-all: $(INSTALLED)
	FASTLOAD_ALL_FAULTS=1 $(BIN)/python -m pytest -n $(AT_A_TIME) --dist worksteal --exhaustive

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

smoke: $(INSTALLED)
	$(BIN)/fastload bench --quick $(foreach name,$(SMOKE),--workload $(name))
	$(BIN)/fastload train --workers 2 --epochs 1

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
