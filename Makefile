PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test check docs clean

demo: $(VENV)/demo.installed
	MPLBACKEND=agg $(BIN)/python examples/demo.py

# Each worker is a process; more threads than cores only wait for each other.
test: $(VENV)/test.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: $(VENV)/dev.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/dev.installed
	$(BIN)/sphinx-build -W --keep-going -b html $(SPHINXOPTS) docs docs/_build/html

# One stamp an extra: `make dev.installed` in the virtual environment, and so on.
$(VENV)/%.installed: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build dist docs/_build docs/reference/generated docs/gallery
