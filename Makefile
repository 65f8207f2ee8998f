# Every target sets up what it needs first. On a fresh machine: `make serve`, `make test`.
PYTHON ?= python3
BIN := .venv/bin
# torch first and alone; the constraints hold its version with whatever comes later, so nothing fetches another build of it.
TORCH := $(shell grep '^torch==' constraints.txt)
# 1: PyTorch with CUDA, 0: for CPUs; by default what nvidia-smi says. TORCH_INDEX: package index to take it from.
GPU ?=
TORCH_INDEX ?=
TORCH_IS_IN := .venv/$(TORCH)$(GPU:%=-gpu%)
INSTALL := $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable
STARTED := $(shell date +%s)
SET_UP = echo "Streambed: set up in $$(($$(date +%s) - $(STARTED))) seconds; .venv has $$(du -sm .venv | cut -f1) MB"
ARGS ?=

.PHONY: setup serve test test-all lint format docs bench bench-prefixes bench-memory bench-journal bench-metrics builtin-model eval-model notebook clean

setup: .venv/dev

.venv/pip:
	@$(PYTHON) -c '' 2>/dev/null || \
		{ echo "Streambed needs Python 3.11 or newer, and $(PYTHON) does not run: make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Streambed needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2] or 0)'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "Streambed needs venv and ensurepip, which $(PYTHON) has not; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Streambed: making a virtual environment in .venv ..."
	$(PYTHON) -m venv .venv
	@touch $@

$(TORCH_IS_IN): .venv/pip
	@$(BIN)/python tools/install_torch.py "$(TORCH)" --index "$(TORCH_INDEX)" --gpu "$(GPU)"
	@touch $@

.venv/serve: $(TORCH_IS_IN) pyproject.toml constraints.txt
	@echo "Streambed: installing the server (about 35 MB to download) ..."
	$(INSTALL) '.[server]'
	@$(SET_UP)
	@touch $@

.venv/dev: .venv/serve
	@echo "Streambed: installing what the tests need (about 190 MB to download) ..."
	$(INSTALL) '.[dev,reduce]'
	@$(SET_UP)
	@touch $@

.venv/attacks: .venv/dev
	$(INSTALL) '.[attacks]'
	@touch $@

.venv/integrations: .venv/dev
	$(INSTALL) '.[integrations]'
	cd tests/integrations/node && npm ci --silent --no-audit --no-fund
	@touch $@

.venv/training: .venv/dev
	$(INSTALL) '.[training]'
	@touch $@

.venv/notebook: .venv/dev
	$(INSTALL) '.[notebook]'
	@touch $@

.venv/e2e: .venv/dev
	$(INSTALL) '.[e2e]'
	cd tests/playground && npm ci --silent --no-audit --no-fund
	@touch $@

.venv/images: .venv/dev
	$(INSTALL) '.[images]'
	@touch $@

serve: .venv/serve
	$(BIN)/streambed serve $(ARGS)

test: .venv/dev
	$(BIN)/pytest --numprocesses 3 --dist loadfile --cov --cov-report= $(ARGS)
	$(BIN)/coverage report --include='*/streambed/text/*,*/streambed/engine/*,*/streambed/streams/*' --fail-under=95
	$(BIN)/coverage report --skip-covered --fail-under=90

# All tests, in groups that each take minutes: tests/groups.py names them. GROUP=images runs one and installs what that one needs;
# ALLOW_SKIP=1 skips tests whose programs (chromium, prometheus) are not on this machine, which otherwise fail.
GROUP ?=
needs-attacks := .venv/attacks
needs-clients := .venv/integrations
needs-images := .venv/images
needs-pages := .venv/notebook .venv/e2e
needs-training := .venv/training

test-all: .venv/dev $(foreach group,$(or $(GROUP),attacks clients images pages training),$(needs-$(group)))
	$(BIN)/python -m tests.groups $(GROUP) -- $(ARGS)

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/check_layout.py

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev
	$(BIN)/python -m tools.docs_tables

bench: .venv/dev
	$(BIN)/streambed bench $(ARGS)

bench-prefixes: .venv/dev
	$(BIN)/python -m benchmarks.prefixes $(ARGS)

bench-memory: .venv/dev
	$(BIN)/python -m benchmarks.memory $(ARGS)

bench-journal: .venv/dev
	$(BIN)/python -m benchmarks.journal $(ARGS)

bench-metrics: .venv/dev
	$(BIN)/python -m benchmarks.metrics $(ARGS)

# From packages to src/streambed/model/builtin; about three hours on two cores. Stop it at any time, it goes on.
builtin-model: .venv/training
	$(BIN)/python -m training $(ARGS)

eval-model: .venv/training
	$(BIN)/python -m training.evaluate $(ARGS)

notebook: .venv/notebook
	$(BIN)/jupyter lab notebooks/quickstart.ipynb

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
