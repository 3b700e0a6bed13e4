# Makefile: the commands of this project; `make` alone lists them.
#
# Everything happens in .venv and build/. Each step leaves a stamp, so that a second run does only what a changed file asks for.
#   make PYTHON=python3.12 install       another Python, when .venv is made
#   make ARGS="--steps 50" demo          arguments for the programs behind demo and bench
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DOORS := build/doors
JOBS := $(shell nproc 2>/dev/null || echo 2)
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses $(JOBS) --maxprocesses 8 --dist loadfile
ifeq ($(origin CXX), default)
CXX := c++
endif
export CXX
export PATH := $(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export CTEST_PARALLEL_LEVEL ?= $(JOBS)

# What the wheel is made of. Folders count too: their time changes when a file goes.
WHEEL_SOURCES := $(shell find CMakeLists.txt LICENSE README.md cmake include pyproject.toml python scripts/compile_cuda.py src -not -path '*/__pycache__*')
CPP_FILES := $(shell find include src python tests examples -name '*.[ch]pp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-cpp test-python test-backends test-doors test-sanitizers cuda bench lint format docs clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.package ## make .venv and install the package into it

demo: install ## train a small language model on real text and write demo/
	$(BIN)/python examples/train_text.py $(ARGS)

test: test-cpp test-python test-backends test-sanitizers ## everything that has to pass

test-cpp: install $(VENV)/.gtest ## C++ tests
	cmake --workflow --preset release

test-python: install ## Python tests, doctests, tests of the wheel, the sdist and the C++ package
	$(PYTEST) tests
	$(BIN)/python -m pytest --quiet --doctest-modules --pyargs window_matmul

# test-python has run every test on the best kernel, and those of values and gradients on each. Here all of a process is on another kernel,
# for the tests whose answer can depend on it.
test-backends: install ## Python tests again with WINDOW_MATMUL_BACKEND set to each other kernel
	@backends=$$($(BIN)/python -c 'from window_matmul.testing import backends; print(*backends()[1:])') && \
	for backend in $$backends; do \
	  echo "WINDOW_MATMUL_BACKEND=$$backend"; \
	  WINDOW_MATMUL_BACKEND=$$backend $(PYTEST) -m "not best_backend" tests/python || exit 1; \
	done

test-doors: $(DOORS)/.installed ## tests of the doors again with the oldest transformers they take
	$(DOORS)/bin/python -m pytest --quiet tests/python/doors

test-sanitizers: install $(VENV)/.gtest ## C++ tests under the address and undefined-behaviour sanitizers
	cmake --workflow --preset asan

cuda: $(VENV)/.gtest ## compile the CUDA kernels (nvcc) and check their registers
	cmake --preset release
	cmake --build --preset release --target window_matmul_cuda
	$(BIN)/python scripts/check_cuda_kernels.py build/release/cuda/*.o

bench: install ## measure against the roofline and against others
	$(BIN)/python -m window_matmul bench $(ARGS)

lint: install ## ruff, mypy, clang-format
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)

format: $(VENV)/.tools ## let ruff and clang-format rewrite the sources
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP_FILES)

docs: install ## run every snippet of README.md and docs/, follow their links
	$(BIN)/python scripts/check_docs.py

clean: ## remove build/ and the tools' caches (.venv stays)
	rm -rf build .hypothesis .mypy_cache .pytest_cache .ruff_cache

# The stamps, first to last.

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
	{ echo "window_matmul needs Python >= 3.10; '$(PYTHON)' is not. Name one: make PYTHON=python3.12 install" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# A torch >= 2.10 that is already there stays.
$(VENV)/.tools: requirements-dev.txt | $(VENV)/bin/pip
	@echo "Installing PyTorch and the tools: minutes, once"
	@$(BIN)/python -c 'from importlib.metadata import version as v; assert [*map(int, v("torch").split(".")[:2])] >= [2, 10]' 2>/dev/null || \
	$(PIP) install -qq torch==2.13.0
	@$(PIP) install -qq --requirement requirements-dev.txt
	@touch $@

build/wheel/.built: $(VENV)/.tools $(WHEEL_SOURCES)
	@command -v $(firstword $(CXX)) >/dev/null || \
	{ echo "window_matmul needs a C++20 compiler; '$(CXX)' is none. Install one (Debian: apt-get install g++) or name it: make CXX=clang++" >&2; exit 1; }
	@echo "Building the wheel"
	@rm -rf $(@D)
	@$(PIP) wheel -q --no-build-isolation --no-deps --wheel-dir $(@D) .
	@touch $@

$(VENV)/.package: build/wheel/.built
	@$(PIP) install -q --no-deps --force-reinstall build/wheel/*.whl
	@touch $@

# Its own transformers first, everything else from .venv.
$(DOORS)/.installed: $(VENV)/.package
	@echo "Making $(DOORS) with transformers 4.57"
	@$(BIN)/python -m venv $(DOORS)
	@$(DOORS)/bin/python -m pip --disable-pip-version-check install -qq 'transformers==4.57.*'
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(DOORS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_venv.pth"
	@touch $@

# GoogleTest: Debian's, where it may be installed; else CMake finds another or fetches it.
$(VENV)/.gtest: | $(VENV)/.tools
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -e /usr/include/gtest/gtest.h ]; then \
	  echo "Installing libgtest-dev" && apt-get -qq update && apt-get -qq install --yes --no-install-recommends libgtest-dev >/dev/null || true; \
	fi
	@touch $@
