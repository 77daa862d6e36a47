# Every target makes the virtual environment it needs; nothing else has to be set up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint bench gallery docs clean

help:
	@echo "make demo   train a small network on digits and see from when it over-fits (about a minute)"
	@echo "make test   run all tests, the doctests and the code blocks of the documentation"
	@echo "make lint   check style and types and build the documentation strictly"
	@echo "make bench  time the package against the alternatives"
	@echo "make gallery [DATA=FOLDER] [RUNS='lenet-*']   train the gallery's runs that are not stored yet (hours)"

$(VENV)/.made-%: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$*]"
	@touch $@

demo: $(VENV)/.made-demo
	$(BIN)/python examples/digits.py

test: $(VENV)/.made-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --dist=loadfile

lint: $(VENV)/.made-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

gallery: $(VENV)/.made-demo
	$(BIN)/python -m gallery train $(if $(DATA),--data $(DATA)) $(RUNS)
	$(BIN)/python -m gallery analyse
	$(BIN)/python -m gallery figures

docs: $(VENV)/.made-lint
	$(BIN)/mkdocs serve

bench: $(VENV)/.made-bench
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) site dist build
