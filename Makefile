# Makefile: the commands of this project; `make` alone lists them.
#
# Everything happens in .venv and build/. Each step leaves a stamp, so that a second run does only what a changed file asks for.
#   make PYTHON=python3.12 install       another Python, when .venv is made
#   make STRICT= install                 with a compiler that warns of more than those that are tried here
#   make CUDA_GPUS="80;90" install       GPUs to compile for, from a clean build/ on; CUDA_GPUS= for all, as `pip install .` does
#   make ARGS="--steps 50" demo          arguments for the programs behind demo and bench
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DOORS := build/doors
JAX := 'jax==0.10.2; python_version >= "3.11"' # the newest for Python 3.11, and none for 3.10
JOBS := $(shell nproc 2>/dev/null || echo 2)
# A file at a time, in the order that tests/python/conftest.py gives them.
PYTEST := $(BIN)/python -m pytest --quiet --numprocesses $(JOBS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder
ifeq ($(origin CXX), default)
CXX := c++
endif
export CXX
export PATH := $(BIN):$(PATH)
unexport PYTHONDONTWRITEBYTECODE # pip compiles no .pyc files here: what is imported is to be compiled once
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export CTEST_PARALLEL_LEVEL ?= $(JOBS)

# Wheel, C++ tests and the sdist's wheel are the same objects, warnings being errors in all of them: ccache, where there is one, compiles
# them once. It looks at the text of files and not at where they lie.
STRICT := --config-settings cmake.define.CMAKE_COMPILE_WARNING_AS_ERROR=ON
export CMAKE_CXX_COMPILER_LAUNCHER = $(shell command -v ccache)
export CCACHE_DIR ?= $(CURDIR)/build/ccache
export CCACHE_BASEDIR ?= $(CURDIR)
export CCACHE_NOHASHDIR := 1
export CCACHE_SLOPPINESS := pch_defines,time_macros

# nvcc takes some three seconds a file for each GPU: PTX, which every GPU takes, and code for this machine's do here. `make cuda` checks all.
CUDA_GPUS ?= native
export WINDOW_MATMUL_CUDA_ARCHITECTURES := $(CUDA_GPUS)

# What the wheel is made of. Folders count too: their time changes when a file goes.
BUILD_SCRIPTS := scripts/build_backend.py scripts/compile_cuda.py scripts/find_torch_headers.py
WHEEL_SOURCES := $(shell find CMakeLists.txt LICENSE README.md cmake include pyproject.toml python $(BUILD_SCRIPTS) src -not -path '*/__pycache__*')
CPP_FILES := $(shell find include src python tests examples -name '*.[ch]pp' -o -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh')

# The C++ tests of all rows of the kernel table but the best, as GoogleTest filters.
OTHER_ROWS := 'from window_matmul.testing import backends; print(":".join(f"*/{row.replace(chr(46), chr(95))}*" for row in backends()[1:]))'

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo demo-distributed check test test-cpp test-python test-doors test-sanitizers test-clang test-torch cuda bench lint format docs clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.package ## make .venv and install the package into it

demo: install ## train a small language model on real text and write demo/
	$(BIN)/python examples/train_text.py $(ARGS)

demo-distributed: install ## train it on long sequences that two processes hold halves of, beside one process; write demo/long
	$(BIN)/python examples/train_long.py --out demo/one-process $(ARGS)
	$(BIN)/torchrun --nproc-per-node 2 examples/train_long.py --compare-with demo/one-process $(ARGS)

# Each Python test with its first and last parameters on its best kernel, and all C++ tests of the best kernel.
check: install $(VENV)/.debian ## the telling tenth of the tests, in less than two minutes
	cmake --preset release
	cmake --build --preset release --target window_matmul_tests
	seq 0 $$(($(JOBS) - 1)) | xargs -P $(JOBS) -I {} env GTEST_TOTAL_SHARDS=$(JOBS) GTEST_SHARD_INDEX={} \
	  build/release/window_matmul_tests --gtest_brief=1 --gtest_filter="-$$($(BIN)/python -c $(OTHER_ROWS))"
	$(PYTEST) --tenth tests/python

test: test-cpp test-python test-sanitizers ## everything that has to pass

test-cpp: install $(VENV)/.debian ## C++ tests
	cmake --workflow --preset release

test-python: install ## Python tests, doctests, tests of the wheel, the sdist and the C++ package
	$(PYTEST) tests

test-doors: $(DOORS)/.installed ## tests of the doors again with the oldest transformers they take
	$(DOORS)/bin/python -m pytest --quiet tests/python/doors

test-sanitizers: install $(VENV)/.debian ## C++ tests under the address and undefined-behaviour sanitizers
	cmake --workflow --preset asan

test-clang: $(VENV)/.debian ## C++ tests, compiled by Debian 12's newest Clang
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! command -v clang++-19 >/dev/null; then \
	  echo "Installing clang-19" && apt-get -qq update && apt-get -qq install --yes --no-install-recommends clang-19 >/dev/null || true; \
	fi
	@if command -v clang++-19 >/dev/null; then cmake --workflow --preset clang; \
	else echo "test-clang: not run, there is no clang++-19 and it cannot be installed here (Debian: apt-get install clang-19)"; fi

# A venv of its own, kept: the wheel is the same for every torch.
TORCH_VENV = .venv-torch-$(VERSION)
test-torch: build/wheel/.built ## Python tests beside another torch: make VERSION=2.14.1 test-torch
	@[ -n "$(VERSION)" ] || { echo "test-torch needs the version of torch: make VERSION=2.14.1 test-torch" >&2; exit 1; }
	@[ -x $(TORCH_VENV)/bin/pip ] || $(PYTHON) -m venv $(TORCH_VENV)
	@$(TORCH_VENV)/bin/python -m pip install -qq torch==$(VERSION) --requirement requirements-dev.txt
	@$(TORCH_VENV)/bin/python -m pip install -q --no-deps --force-reinstall build/wheel/*.whl
	PATH=$(CURDIR)/$(TORCH_VENV)/bin:$$PATH $(TORCH_VENV)/bin/python -m pytest --quiet --numprocesses $(JOBS) --maxprocesses 8 --dist loadfile tests/python $(ARGS)

cuda: $(VENV)/.debian ## compile the CUDA kernels (nvcc) for every GPU and check their registers
	cmake --preset release
	cmake --build --preset release --target window_matmul_cuda_check

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

# A torch >= 2.10 that is already there stays. pip 26 takes 20 s for these 80 packages, Python 3.11's own 32: one processor's. The others
# compile the CUDA kernels meanwhile, which want CMake and Ninja alone; the wheel's build takes them from build/cuda, and says what fails.
COMPILE_CUDA := { cmake -S . -B build/ahead -G Ninja && cmake --build build/ahead --target window_matmul_cuda; } >/dev/null 2>&1
$(VENV)/.tools: requirements-dev.txt | $(VENV)/bin/pip
	@echo "Installing PyTorch and the tools: minutes, once"
	-@$(PIP) install -qq pip==26.3 $$(grep -E '^(cmake|ninja)==' $<)
	@$(if $(filter format,$(MAKECMDGOALS)),:,$(COMPILE_CUDA)) & \
	$(BIN)/python -c 'from importlib.metadata import version as v; assert [*map(int, v("torch").split(".")[:2])] >= [2, 10]' 2>/dev/null \
	  && torch= || torch=torch==2.13.0; \
	$(PIP) install --no-compile -qq $$torch --requirement requirements-dev.txt; failed=$$?; wait; exit $$failed
	@touch $@

build/wheel/.built: $(VENV)/.tools $(WHEEL_SOURCES) | $(VENV)/.debian
	@command -v $(firstword $(CXX)) >/dev/null || \
	{ echo "window_matmul needs a C++20 compiler; '$(CXX)' is none. Install one (Debian: apt-get install g++) or name it: make CXX=clang++" >&2; exit 1; }
	@echo "Building the wheel"
	@rm -rf $(@D)
	@$(PIP) wheel -q --no-build-isolation --no-deps --wheel-dir $(@D) $(STRICT) .
	@touch $@

$(VENV)/.package: build/wheel/.built
	@$(PIP) install -q --no-deps --force-reinstall build/wheel/*.whl
	@touch $@

# Its own transformers first, everything else from .venv.
$(DOORS)/.installed: $(VENV)/.package
	@echo "Making $(DOORS) with transformers 4.57"
	@$(BIN)/python -m venv $(DOORS)
	@$(DOORS)/bin/python -m pip --disable-pip-version-check install --no-compile -qq 'transformers==4.57.*' $(JAX)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	  > "$$($(DOORS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz_venv.pth"
	@touch $@

# GoogleTest and ccache: Debian's, where they may be installed; else CMake finds another GoogleTest or fetches it, and nothing is cached.
$(VENV)/.debian: | $(VENV)/.tools
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { [ -e /usr/include/gtest/gtest.h ] && command -v ccache >/dev/null; }; then \
	  echo "Installing libgtest-dev and ccache" && \
	  apt-get -qq update && apt-get -qq install --yes --no-install-recommends libgtest-dev ccache >/dev/null || true; \
	fi
	@touch $@
