# `make demo` and `make test` do all the set-up there is: a virtual environment in .venv with pinned
# dependencies from the package index. Needed beforehand: Python 3.11 or newer, g++, make and perl.

PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
TRAIN := $(VENV)/.train

export RTLGEN_CACHE := $(CURDIR)/.cache
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := $(wildcard hw rtl_gen sim flows sw_driver tests)

.DEFAULT_GOAL := help
.PHONY: help setup demo test nightly bench compare train lint format mutation formal clean

help:
	@echo 'make demo      build, verify, synthesize, map and run the shipped lut_core'
	@echo 'make test      lint, type check and test'
	@echo 'make nightly   the tests that take minutes'
	@echo 'make bench     measure density, published rankings and simulation speed'
	@echo 'make compare   the comparison of docs/comparison.md; LIBERTY=FILE names a cell library'
	@echo 'make train     train the small language model of sw_driver/tiny again, into build/'
	@echo 'make mutation  break the RTL on purpose; every mutant must be caught'
	@echo 'make formal    prove stream rules, conservation, cycles and arithmetic of every block'
	@echo 'make lint      ruff and mypy only'
	@echo 'make format    let ruff lay out the sources'
	@echo 'make clean     remove the environment, the cache and every output'

setup: $(READY)

demo: $(READY)
	$(PY) -m sw_driver.demo

test: lint
	$(PY) -m pytest -n $(WORKERS) -m 'not nightly'

nightly: $(READY) $(TRAIN)
	$(PY) -m pytest -n $(WORKERS) -m nightly

bench: $(READY)
	$(PY) -m flows.bench
	$(PY) -m flows.rankings
	$(PY) -m sim.bench_speed hw/configs/lut_core.yaml

# Multiplier, lookup table, bit-serial, block formats and floating point at W1, W2, W4, W6 and W8.
COMPARED := mac_w1@1 mac_w2@2 mac_w4@4 mac_w6@6 mac_w8@8 \
  lut_serial_k16@1,2,4 lut_fp16_k16@2,4 lut_w2@2 lut_w4@4 lut_w6@6 lut_w8@8 lut_ternary@2 \
  bitserial_k256@1,2,4,6,8 \
  mx_int4@4 mx_fp4@4 mx_nvint4@4 mx_nvfp4@4 mx_int6@6 mx_fp6_e2m3@6 mx_int8@8 mx_fp8_e4m3@8 \
  dequant_w1@1 dequant_w2@2 dequant_w4@4 dequant_w6@6 dequant_w8@8

compare: $(READY)
	$(VENV)/bin/rtlgen compare $(if $(LIBERTY),--liberty $(LIBERTY)) \
	  $(foreach item,$(COMPARED),hw/configs/density/$(subst @,.yaml@,$(item))) \
	  --picture build/comparison.png -o build/comparison.json

train: $(READY) $(TRAIN)
	$(PY) -m sw_driver.tiny.train --out build/tiny_pydoc

mutation: $(READY)
	$(PY) -m sim.mutation

formal: $(READY)
	$(PY) -m sim.formal

lint: $(READY)
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m mypy

format: $(READY)
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

clean:
	rm -rf $(VENV) .cache build rtlgen.egg-info .pytest_cache .ruff_cache .mypy_cache
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp comes last: an interrupted installation is taken up again.
$(READY): .lock/requirements.txt pyproject.toml | needed
	@echo 'setting up $(VENV) (once, a minute or two)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --no-deps --requirement .lock/requirements.txt
	$(PY) -m pip install --quiet --no-deps --no-build-isolation --editable .
	$(PY) -m compileall -q $(SOURCES)
	@touch $@

# JAX is large, and needed for training alone.
$(TRAIN): .lock/train.txt $(READY)
	$(PY) -m pip install --quiet --no-deps --requirement .lock/train.txt
	@touch $@

# One clear line for each thing that the machine lacks.
.PHONY: needed
needed:
	@status=0; \
	if ! command -v '$(PYTHON)' >/dev/null 2>&1; then \
	  echo 'make: $(PYTHON) is missing; Python 3.11 or newer is needed' >&2; status=1; \
	elif ! '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "make: Python 3.11 or newer is needed, $(PYTHON) is $$('$(PYTHON)' -V 2>&1);" \
	    'name another with PYTHON=...' >&2; status=1; \
	elif ! '$(PYTHON)' -c 'import ensurepip, venv' >/dev/null 2>&1; then \
	  echo 'make: $(PYTHON) cannot make virtual environments (no ensurepip);' \
	    'name another with PYTHON=...' >&2; status=1; \
	fi; \
	for tool in g++ perl; do \
	  if ! command -v $$tool >/dev/null 2>&1; then \
	    echo "make: $$tool is missing; Verilated models need it" >&2; status=1; \
	  fi; \
	done; \
	exit $$status
