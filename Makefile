# make demo and make test need only Python (>= 3.10) and make: each builds its own environment in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
OUTPUT ?= demo_output
SCAN ?=
SOURCE ?= t1
PYTEST_ARGS ?=
PROJECT := setup.cfg pyproject.toml
NIIVUE := 0.69.0
NIIVUE_SHA256 := 47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af
SHAPES := --jaxtyping-packages=voxlate.networks,beartype.beartype

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow dev format lint types check bench faults faults-nightly viewer clean

help:
	@echo "make demo [SCAN=scan.nii.gz SOURCE=t1 OUTPUT=dir]  translate a T1 and draw the result"
	@echo "make test | test-slow                              run the quick tests | all tests"
	@echo "make dev | format | lint | types | check           develop: environment, style, types"
	@echo "make bench | clean                                 time it | remove what was built"
	@echo "make faults | faults-nightly                       kills, full disks, ...: docs/faults.md again"
	@echo "make viewer                                        fetch the report's viewer again"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(PROJECT) | $(BIN)/python
	@echo "installing voxlate into $(VENV) (the first time this takes some minutes)"
	$(PIP) install -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(PROJECT) | $(BIN)/python
	@echo "installing voxlate and its tests' tools into $(VENV) (the first time this takes some minutes)"
	$(PIP) install -e ".[demo,dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/python -m voxlate.pipelines.demo --output "$(OUTPUT)" --source "$(SOURCE)" \
		$(if $(SCAN),--scan "$(SCAN)")

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(SHAPES) $(PYTEST_ARGS)

dev: $(VENV)/.dev
	$(BIN)/python -m pre_commit install

format: $(VENV)/.dev
	$(BIN)/python -m ruff format .
	$(BIN)/python -m ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

# mypy follows no editable install; links under the ignored .typing show it the package as it is imported.
types: $(VENV)/.dev
	@mkdir -p .typing/voxlate
	@for room in bundles data_prep networks pipelines; do \
		ln -sfn "../../$$room" ".typing/voxlate/$$room"; done
	@ln -sf ../../src/voxlate/__init__.py ../../src/voxlate/py.typed .typing/voxlate/
	$(BIN)/python -m mypy

check: lint types

bench: $(VENV)/.demo
	$(BIN)/python -m benchmarks

# 20 kills and 300 cases, or by night 200 and 2,000; docs/faults.md is written anew.
faults: $(VENV)/.demo
	$(BIN)/python -m benchmarks.faults

faults-nightly: $(VENV)/.demo
	$(BIN)/python -m benchmarks.faults --nightly

# The viewer of the report's pages, as it is in the repository; needs npm and its registry.
viewer:
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
		npm pack --silent --pack-destination "$$folder" @niivue/niivue@$(NIIVUE) >/dev/null && \
		tar -xzf "$$folder"/*.tgz -C "$$folder" package/dist/niivue.umd.js && \
		echo "$(NIIVUE_SHA256)  $$folder/package/dist/niivue.umd.js" | sha256sum --check --quiet && \
		cp "$$folder/package/dist/niivue.umd.js" pipelines/report_files/niivue.js

clean:
	rm -rf build dist .typing .pytest_cache .mypy_cache .ruff_cache src/*.egg-info *.egg-info $(VENV)
