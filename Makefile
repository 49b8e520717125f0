# make deps | up | test | faults | lint | bench | pictures
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LEGACY ?=
ONLY ?=
SIZES ?=
FAULTS ?= 120

.PHONY: deps up test faults lint bench pictures lock clean

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

# Kills, many times and at every point, what takes part in collecting, loading, keeping and moving; nothing may be lost
# or come twice. The suite tries a few of the points.
faults: deps
	B3_FAULTS=$(FAULTS) $(BIN)/python -m pytest -k killed b3_pipeline_tests

lint: deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level warning

bench: deps
	$(BIN)/python -m bench $(if $(ONLY),--only $(ONLY)) $(if $(SIZES),--sizes $(SIZES))

# Of what a `b3 up` of this home shows, for the documents.
pictures: deps
	$(BIN)/python -m bench.pictures

lock:
	uv pip compile pyproject.toml --group dev --universal --generate-hashes --no-emit-index-url --no-strip-extras \
		--custom-compile-command "make lock" --output-file requirements.lock
