# `make demo` and `make test` do all of their own set-up; everything lands in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint clean

demo: .venv/ready
	$(BIN)/diffrec demo

test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check diffrec tests benchmarks
	$(BIN)/ruff format --check diffrec tests benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports

# A CPU build of torch is used where pip can find one (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL).
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist runs demo
