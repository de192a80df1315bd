PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
FUZZ_SCALE ?= 20

.PHONY: demo test fuzz lint clean

demo: $(VENV)/requirements  ## restore sample photographs with the weights that ship, show the result
	$(RUN) -m scripts.quickstart

test: $(VENV)/requirements-dev  ## the whole test suite
	$(RUN) -m pytest

fuzz: $(VENV)/requirements-dev  ## random inputs, FUZZ_SCALE times as many as in the suite
	FUZZ_SCALE=$(FUZZ_SCALE) $(RUN) -m pytest -s tests/test_fuzz.py

lint: $(VENV)/requirements-dev  ## style, as pre-commit checks it
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(VENV)/requirements: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --requirement $<
	touch $@

$(VENV)/requirements-dev: requirements-dev.txt requirements-demo.txt $(VENV)/requirements
	$(RUN) -m pip install --requirement $<
	touch $@

clean:  ## remove what `make demo` made, but not the installation
	rm -rf quickstart
