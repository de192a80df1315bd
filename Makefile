PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint clean

demo: $(VENV)/installed  ## train a tiny network on sample photographs, test it, show the result
	$(RUN) -m scripts.quickstart

test: $(VENV)/installed  ## the whole test suite
	$(RUN) -m pytest

lint: $(VENV)/installed  ## style, as pre-commit checks it
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:  ## remove what `make demo` made, but not the installation
	rm -rf quickstart
