# Two commands matter: `make lessons` and `make test`. Both set up .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY := $(BIN)/python
READY := $(VENV)/.ready
OUT ?= runs
JOBS ?= 2 # notebooks that `make lessons` and `make test` run side by side

# Nothing of the reader's own settings may change a test or a stored output.
CLEAN_ENV := env -u LESSONS_SCALE -u LESSONS_SET -u LESSONS_SEED -u LESSONS_DATA -u LESSONS_OUT

.DEFAULT_GOAL := help
.PHONY: help lessons lesson test lab export clean store lint bench constraints setup

help: ## print the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): settings.ini setup.py constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info; sys.exit(None if v >= (3, 10) else f'lessonlib needs Python 3.10 or newer, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --constraint constraints.txt --editable ".[dev]"
	$(PY) -c "import pathlib; pathlib.Path('$(READY)').touch()"

setup: $(READY) ## make .venv and install everything into it

lessons: $(READY) ## get the sample data, run every lesson, print a table of the results
	$(CLEAN_ENV) $(BIN)/lessons data
	$(CLEAN_ENV) $(BIN)/lessons run --jobs $(JOBS) --out $(OUT)

lesson: $(READY) ## run one lesson: make lesson L=pets
	$(BIN)/lessons run $(L) --out $(OUT)

test: $(READY) ## check export, notebooks, style and types, re-run every notebook, run tests/
	$(CLEAN_ENV) $(BIN)/lessons data
	$(PY) -m lessonlib.notebooks check
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(CLEAN_ENV) $(PY) -m pytest -n $(JOBS) --dist loadscope --nbval --nbval-current-env --nbval-cell-timeout=600 nbs
	$(CLEAN_ENV) $(PY) -m pytest -n $(JOBS) --dist loadfile tests

lab: export GOMP_SPINCOUNT ?= 50000
lab: export OMP_WAIT_POLICY ?= PASSIVE
lab: export PYTHONWARNINGS ?= ignore:`torch.jit.script` is deprecated:FutureWarning
lab: $(READY) ## open JupyterLab on the notebooks
	$(PY) -m jupyterlab nbs

export: $(READY) ## write lessonlib/ from the notebooks
	$(PY) -c "from nbdev.doclinks import nbdev_export; nbdev_export()"

clean: $(READY) ## bring the notebooks into their canonical form
	$(PY) -m lessonlib.notebooks clean

store: $(READY) ## run notebooks at the sample scale and keep their outputs: make store [N=nbs/01_pets.ipynb]
	$(CLEAN_ENV) $(PY) -m lessonlib.notebooks store $(N)

lint: $(READY) ## style, types, and the share of outputs that is checked
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m lessonlib.notebooks share

bench: $(READY) ## measure the speeds that the README quotes
	for script in bench/*.py; do $(PY) $$script || exit 1; done

constraints: $(READY) ## resolve constraints.txt anew from settings.ini, for every system and Python
	$(PY) -m pip install --quiet uv
	$(PY) -m uv pip compile --quiet --universal --upgrade --python-version 3.10 --extra dev --no-annotate --no-header setup.py --output-file $(VENV)/constraints.txt
	$(PY) -c "import pathlib; new = pathlib.Path('$(VENV)/constraints.txt').read_text(); pathlib.Path('constraints.txt').write_text('# The exact versions this tree was tested with, for every system and Python from 3.10 on.\n# Made from settings.ini by: make constraints\n' + new)"
