# Each target sets itself up from a fresh clone; a second call skips what is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check package fix bench fuzz clean

demo: $(VENV)/.ready
	$(BIN)/snowmelt demo

test: $(VENV)/.ready
	$(BIN)/pytest -n 2 --dist loadfile --max-worker-restart 0

check: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel, in an environment of its own without torch: it denoises, and what needs no torch passes its tests.
package: .venv-package/.ready
	rm -rf dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	.venv-package/bin/python -m pip install --quiet --no-deps --force-reinstall dist/snowmelt-*.whl
	cd .venv-package && bin/python ../tests/package.py

.venv-package/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-package/bin/python -m pip install --quiet . pytest hypothesis
	touch $@

fix: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Snowmelt needs Python 3.11 or newer; this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt --group dev -e ".[train,dicom]"
	touch $@

# The peers live in an environment of their own: nothing of them is in the project's dependencies.
bench: $(VENV)/.ready .venv-keras/.ready
	$(BIN)/python benchmarks/training.py --keras .venv-keras/bin/python $(if $(FULL),--full)

.venv-keras/.ready:
	$(PYTHON) -m venv .venv-keras
	.venv-keras/bin/python -m pip install --quiet tensorflow-cpu h5py
	touch $@

fuzz: $(VENV)/.ready
	SNOWMELT_FUZZ=20000 $(BIN)/pytest -n 2 -k fuzz

clean:
	rm -rf $(VENV) .venv-keras .venv-package build dist .mypy_cache .pytest_cache .ruff_cache
