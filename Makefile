PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint clean

demo: $(VENV)/requirements  ## train a tiny network on sample photographs, test it, show the result
	$(RUN) -m scripts.quickstart

test: $(VENV)/requirements-dev  ## the whole test suite
	$(RUN) -m pytest

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
