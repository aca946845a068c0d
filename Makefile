# budgateway: one command for each thing a developer does. `make help` lists them.
#
# Repeats are quick: a stamp under .make/ stands for each step, and a step runs again when what it reads has changed.

PYTHON ?= python3
# Extra words for the command a target runs: make test ARGS="-k splice -x".
ARGS ?=
HOST ?= 127.0.0.1
PORT ?= 8080
# Processes that share the tests, each file to one of them.
JOBS ?= auto
# How often `make flaky` runs each test.
TIMES ?= 20
FUZZ_SECONDS ?= 60
# The core has no unsafe code, and without it a fuzzer is six times as quick; `address` is for the crates below it.
SANITIZER ?= none

VENV := .venv
PURE := .venv-pure
LITELLM := .venv-litellm
BIN := $(VENV)/bin
STAMPS := .make

TEST := pytest -n $(JOBS) --dist loadfile --durations 10 --durations-min 1

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

# What the build reads. Anything under target/ is output, and the fuzz crate no part of it.
SOURCES_RS := $(shell find native \( -name target -o -name fuzz \) -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print 2>/dev/null)
# Not in an sdist.
FUZZ_CRATE := $(wildcard native/fuzz/Cargo.toml)
SOURCES_RIG := $(shell find benchmarks/load/rig -name '*.rs' -o -name Cargo.toml)
SOURCES_CARGO := Cargo.toml Cargo.lock $(wildcard rust-toolchain.toml .cargo/config.toml)
SOURCES_CY := $(shell find budgateway -name '*_cy.py' -o -name '*.pxd')
SOURCES_PY := $(shell find budgateway -name '*.py' -o -name '*.pyi' -o -name '*.pxd' -o -name '*.toml' -o -name '*.json')
# A library that is not there, because it was deleted or its source renamed, is built whatever the stamps say.
MISSING_RS := $(if $(wildcard budgateway/_native.*.so),,FORCE)
MISSING_CY := $(if $(strip $(foreach source,$(filter %_cy.py,$(SOURCES_CY)),$(if $(wildcard $(source:.py=.*.so)),,$(source)))),FORCE)

.PHONY: FORCE help run test flaky peers test-pure coverage dev native cython pure wheel sdist fmt lint type bench rig bench-load core micro fuzz soak check clean orphans

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------- use it

run: $(STAMPS)/built ## a gateway on localhost:8080, with a demo model server behind it
	$(BIN)/budgateway serve --demo --host $(HOST) --port $(PORT) $(ARGS)

test: $(STAMPS)/built $(STAMPS)/group-test $(STAMPS)/rig ## the whole test suite
	$(BIN)/$(TEST) $(ARGS)

# More processes than cores, for tests must also pass on a busy machine.
flaky: $(STAMPS)/built $(STAMPS)/group-test $(STAMPS)/rig ## each test TIMES=20 times, on a busy machine (ARGS="tests/unit -k keeper")
	$(BIN)/pytest -n 6 --dist load --count $(TIMES) --maxfail 5 $(ARGS)

peers: $(STAMPS)/litellm $(STAMPS)/node ## what some tests need beside us: a LiteLLM proxy in .venv-litellm, the npm client

# Its 0.7 GB of dependencies would fight ours in one venv.
$(LITELLM)/pyvenv.cfg:
	$(PYTHON) -m venv $(LITELLM)

$(STAMPS)/litellm: $(LITELLM)/pyvenv.cfg
	@mkdir -p $(STAMPS)
	$(LITELLM)/bin/python -m pip install --quiet 'litellm[proxy]>=1.80'
	@touch $@

$(STAMPS)/node: tests/integration/node/package-lock.json
	@mkdir -p $(STAMPS)
	if command -v npm >/dev/null; then cd tests/integration/node && npm ci --no-audit --no-fund --ignore-scripts --loglevel=error; fi
	@touch $@

# ---------------------------------------------------------------- build

dev: $(STAMPS)/built $(STAMPS)/group-test $(STAMPS)/group-lint ## everything a developer needs, in .venv

native: $(STAMPS)/native ## rebuild the Rust core in place

cython: $(STAMPS)/cython ## rebuild the compiled Python modules in place

pure: $(STAMPS)/pure ## a second venv, .venv-pure, where the compiled modules are interpreted

wheel: $(STAMPS)/group-build ## build the wheel into wheels/
	rm -rf build/lib* build/bdist* wheels/*.whl
	$(BIN)/python -m pip wheel --no-build-isolation --no-deps --wheel-dir wheels .
	$(BIN)/python tests/wheel_check.py wheels/*.whl

sdist: $(STAMPS)/group-build ## build the sdist into dist/
	rm -rf dist/*.tar.gz *.egg-info
	$(BIN)/python -m build --sdist --no-isolation --outdir dist .

# A venv that vanished, or another PYTHON, starts all over: every stamp hangs on this file.
$(VENV)/pyvenv.cfg:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "budgateway needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(STAMPS)/group-%: $(VENV)/pyvenv.cfg pyproject.toml
	@mkdir -p $(STAMPS)
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

# Always `python -m pip`, never the `pip` script: it names the interpreter differently, and pyo3 is compiled anew each time.
# The editable install is made once; edits go through the two quick steps below.
$(STAMPS)/installed: $(STAMPS)/group-build pyproject.toml setup.py
	BUDGATEWAY_PURE=1 $(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	@touch $@

$(STAMPS)/native: $(SOURCES_RS) $(SOURCES_CARGO) $(MISSING_RS) | $(STAMPS)/installed
	BUDGATEWAY_PURE=1 $(BIN)/python setup.py --quiet build_rust --inplace --release
	@touch $@

$(STAMPS)/cython: $(SOURCES_CY) $(MISSING_CY) | $(STAMPS)/installed orphans
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

$(STAMPS)/built: $(STAMPS)/installed $(STAMPS)/native $(STAMPS)/cython | orphans
	@touch $@

# The load generator: tests that want it skip without it.
$(STAMPS)/rig: $(SOURCES_RIG) $(SOURCES_CARGO)
	@mkdir -p $(STAMPS)
	cargo build --quiet --locked --release --package budgateway-load
	@touch $@

# A compiled module whose source was renamed or deleted would still be imported.
orphans:
	@find budgateway -name '*_cy.*.so' | while read -r so; do [ -e "$${so%%.*}.py" ] || { echo "stale: rm $$so"; rm "$$so"; }; done

# ---------------------------------------------------------------- the interpreted flavour

$(PURE)/pyvenv.cfg:
	$(PYTHON) -m venv $(PURE)
	$(PURE)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'

$(STAMPS)/pure-group-%: $(PURE)/pyvenv.cfg pyproject.toml
	@mkdir -p $(STAMPS)
	$(PURE)/bin/python -m pip install --quiet --group $*
	@touch $@

# Not editable: the checkout holds compiled modules, and an import prefers them to the .py beside them.
$(STAMPS)/pure: $(STAMPS)/pure-group-test $(STAMPS)/group-build setup.py $(SOURCES_PY) $(SOURCES_RS) $(SOURCES_CARGO)
	rm -rf build/lib* build/bdist* build/pure
	BUDGATEWAY_PURE=1 $(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/pure .
	$(PURE)/bin/python -m pip install --quiet --force-reinstall --no-deps build/pure/*.whl
	$(PURE)/bin/python -m pip install --quiet build/pure/*.whl
	@touch $@

test-pure: $(STAMPS)/pure ## the tests that reach compiled modules, with these interpreted
	BUDGATEWAY_PURE=1 $(PURE)/bin/$(TEST) -m "compiled and not soak" $(ARGS)

# Compiled functions have no lines to count: the lamp shines on the pure build.
coverage: $(STAMPS)/pure ## branch coverage of the pure build
	BUDGATEWAY_PURE=1 $(PURE)/bin/coverage run $(PURE)/bin/pytest -q $(ARGS)
	$(PURE)/bin/coverage report

# ---------------------------------------------------------------- judge it

# A macro declares these modules, and cargo fmt does not look into macros.
POLICIES = native/core/src/select/policies/*.rs

fmt: $(STAMPS)/group-lint ## format Python and Rust
	$(BIN)/ruff check --quiet --select I --fix .
	$(BIN)/ruff format .
	cargo fmt --all
	rustfmt --edition 2024 $(POLICIES)
	$(if $(FUZZ_CRATE),cargo fmt --manifest-path $(FUZZ_CRATE))

lint: $(STAMPS)/group-lint ## formats, ruff, clippy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	cargo fmt --all --check
	rustfmt --edition 2024 --check $(POLICIES)
	PYO3_PYTHON=$(CURDIR)/$(BIN)/python cargo clippy --quiet --locked --workspace --all-targets -- -D warnings
	$(if $(FUZZ_CRATE),cargo fmt --manifest-path $(FUZZ_CRATE) --check)
	$(if $(FUZZ_CRATE),cargo clippy --quiet --locked --manifest-path $(FUZZ_CRATE) --all-targets --features targets -- -D warnings)

type: $(STAMPS)/built $(STAMPS)/group-test $(STAMPS)/group-lint ## mypy, pyright, and the native stub against the native module
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/python -m mypy.stubtest budgateway._native

bench: $(STAMPS)/built $(STAMPS)/group-test $(STAMPS)/group-bench ## micro-benchmarks (ARGS="-k route")
	$(BIN)/pytest benchmarks/micro --benchmark-only --benchmark-disable-gc --benchmark-min-rounds=50 $(ARGS)

rig: $(STAMPS)/rig ## the load generator and null model server, in target/release

bench-load: $(STAMPS)/built $(STAMPS)/group-test ## the whole gateway beside its peers (minutes)
	$(BIN)/python -m benchmarks.load $(ARGS)

$(STAMPS)/fuzz:
	@mkdir -p $(STAMPS)
	cargo +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
	cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	@touch $@

# From what the replay begins with to what the fuzzer found: that stays in native/fuzz/corpus.
fuzz: $(STAMPS)/fuzz ## each fuzz target for FUZZ_SECONDS=60 (TARGETS="json sse")
	@cd native; seeds=$$(mktemp -d); trap 'rm -rf "$$seeds"' EXIT; \
	cargo run --quiet --locked --manifest-path fuzz/Cargo.toml --example sow -- "$$seeds"; \
	for target in $(or $(TARGETS),$$(cargo +nightly fuzz list)); do \
	  mkdir -p "fuzz/corpus/$$target"; \
	  cargo +nightly fuzz run --sanitizer $(SANITIZER) --features fuzzing "$$target" "fuzz/corpus/$$target" "$$seeds/$$target" -- -max_total_time=$(FUZZ_SECONDS); \
	done

soak: $(STAMPS)/built $(STAMPS)/group-test ## the long tests
	$(BIN)/pytest -m soak $(ARGS)

core: ## the tests of the Rust core, its parsers over seeds and corpora, and the load generator's tests
	cargo test --quiet --locked --workspace --exclude budgateway-native
	$(if $(FUZZ_CRATE),cargo test --quiet --locked --manifest-path $(FUZZ_CRATE))

micro: $(STAMPS)/built $(STAMPS)/group-test $(STAMPS)/group-bench ## each micro-benchmark once, as a test
	$(BIN)/pytest benchmarks/micro --benchmark-disable

check: lint type test core micro ## what a commit must pass: formats, lints, types, tests, benchmarks once, a clean tree
	@if [ -n "$$(git status --porcelain)" ]; then git status --short; echo "the tree is not clean"; exit 1; fi

clean: ## remove everything the build made
	rm -rf $(VENV) $(PURE) $(LITELLM) tests/integration/node/node_modules $(STAMPS) build dist target *.egg-info native/fuzz/target native/fuzz/corpus native/fuzz/artifacts native/fuzz/coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks wheels/*.whl
	find budgateway benchmarks tests \( -name '*.so' -o -name '*.c' -o -name __pycache__ \) -prune -exec rm -rf {} +
