# The commands of this project. Needs make, git and Python 3.11 to 3.13; everything else goes into .venv, from requirements.lock.
# Kept to what GNU make 3.81 knows, the version macOS ships.

PYTHONS := python3.11 python3.12 python3.13 python3 python
ifdef PYTHON
PYTHONS := $(PYTHON)
endif
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

# uv trusts the certificates this machine trusts, as pip does: many build machines sit behind a mirror with one of their own.
UV_SYSTEM_CERTS ?= true
export UV_SYSTEM_CERTS

# Some build machines forbid Python to keep what it compiled: then each of the hundred processes of the tests compiles dagster
# and torch again, half a second to three each.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
SYNCED := .venv/.synced

# A virtual environment and .env hold absolute paths: .synced remembers the folder they were made in.
ifneq ($(shell cat $(SYNCED) 2>/dev/null),$(CURDIR))
$(SYNCED): moved
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test slow check dev smoke bench results fiftyone lock clean moved

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

setup: .env  ## .venv from the lock, the kestrel command, .env; costs nothing when nothing changed

demo: setup  ## real photographs to a leaderboard, a champion and a verified ONNX export, in minutes
	@$(BIN)/kestrel demo

test: setup  ## the tests; ARGS="-k splits -x" narrows them
	@$(BIN)/pytest -m "not bench and not slow" $(ARGS)

slow: setup  ## tests with a live daemon, killed trainings and broken pushes: minutes, and part of CI
	@$(BIN)/pytest -m slow $(ARGS)

check: setup  ## format, lint, types, tests: what CI runs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/pytest -m "not bench and not slow" $(ARGS)

dev: setup  ## the Dagster UI on what `make demo` made; ARGS="--port 3001" moves it
	@$(BIN)/dagster dev $(ARGS)

smoke: setup  ## the smoke job: tiny subset, two batches of training, inference, export
	@$(BIN)/dagster job execute -m platform_assets.definitions -j smoke --tags '{"dagster/partition": "cnn__s0"}'

bench: setup  ## real-data benchmarks, minutes each
	@$(BIN)/pytest -m bench -s --timeout 3600 $(ARGS)

results: setup  ## docs/results.md anew, of elpv and grocery; ARGS=--finetune trains 40 minutes more
	@$(BIN)/python -m platform_tests.benchmarks.results $(ARGS)

# Its database is fetched when it is built, and 100 packages more: not what a test run should wait for.
fiftyone: setup  ## the extra `fiftyone` in .venv-fiftyone, and a folder of ours opened in it
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-fiftyone
	@$(BIN)/uv pip install --quiet --python .venv-fiftyone/bin/python --group dev -e '.[fiftyone]' secantusdb==0.7.0b3
	@.venv-fiftyone/bin/pytest -n 0 -m slow platform_tests/vision/views/test_fiftyone_folder.py $(ARGS)

# All extras but `fiftyone`.
LOCKED = croissant demo lightgbm quality s3 spectral tuning

lock: setup  ## solve requirements.lock again from pyproject.toml; ARGS=--upgrade takes newer versions
	@$(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-emit-index-url --no-header \
		$(LOCKED:%=--extra %) --group dev --quiet $(ARGS) -o requirements.lock

clean:  ## remove .venv and caches; data/ stays
	rm -rf .venv .venv-fiftyone .env.*.tmp .mypy_cache .ruff_cache .pytest_cache .hypothesis .tmp_dagster_home_*
	find platform_assets platform_tests -type d -name __pycache__ -prune -exec rm -rf {} +

.env: $(SYNCED) platform_assets/instance.py
	@$(BIN)/python -m platform_assets.instance

# uv comes from the lock too, by pip and with its hash. `uv pip sync` then makes .venv equal to the lock, to the file.
$(SYNCED): requirements.lock pyproject.toml
	@if [ -e $(SYNCED) ] && [ "$$(cat $(SYNCED))" != "$(CURDIR)" ]; then echo "setup: .venv was made elsewhere, again"; rm -rf .venv; fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		for candidate in $(PYTHONS); do \
			if "$$candidate" -c '$(SUPPORTED)' >/dev/null 2>&1; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "setup: no Python 3.11 to 3.13 with venv and ensurepip among: $(PYTHONS)." >&2; \
			echo "       Install one (Debian: also its -venv package) or name it: make setup PYTHON=/path/to/python3.12" >&2; \
			exit 1; \
		fi; \
		echo "setup: .venv with $$("$$python" --version)"; \
		"$$python" -m venv --clear .venv; }
	@awk '/^[^ ]/ { uv = /^uv==/ } uv' requirements.lock > .venv/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	@$(BIN)/uv pip sync --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --quiet --no-deps --editable .
	@echo "$(CURDIR)" > $(SYNCED)
