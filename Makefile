# make deps | up | test | lint | bench
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LEGACY ?=
ONLY ?=
SIZES ?=

.PHONY: deps up test lint bench lock clean

deps: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it with make PYTHON=/path/to/python3.11"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

up: deps
	$(BIN)/b3 up $(if $(LEGACY),--legacy $(LEGACY),--demo)

test: deps
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level warning

bench: deps
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(SIZES),--sizes $(SIZES))

lock:
	uv pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url --no-strip-extras \
		--custom-compile-command "make lock" --output-file requirements.lock
