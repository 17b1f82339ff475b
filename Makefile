# The one list of commands, for desk and CI alike. Everything runs in .venv, which `make install` makes.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
TORCH  := 2.13.0
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false
# Idle OpenMP threads that spin starve the processes beside them.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: install demo up check test test-slow bench lock

install: $(VENV)/.installed

# torch comes first and by itself, so that an index which holds a CPU build serves that one.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==$(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
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
	$(BIN)/pytest -m "not slow"

test-slow: install
	$(BIN)/pytest -m slow

bench: install
	@for row in T1 S1 U1 I7; do for shape in tiny nano; do $(BIN)/python -m bench $$row --shape $$shape --device cpu; done; done

# Writes requirements.lock from what is installed; torch's own line keeps no local version label.
lock: install
	$(BIN)/pip freeze --exclude-editable | sed 's/^torch==.*/torch==$(TORCH)/' > requirements.lock
