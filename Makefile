# make demo: set up .venv and compare a mixture of experts with its dense twin. make test: set up and test.
# MINUTES=N scales the demo, ARGS="..." passes options on, PYTHON=python3.12 chooses the interpreter, WORKERS=N the
# processes of `make test`.
# PIP_TORCH is what pip installs as torch: another version, "torch==2.13.0 --index-url URL" for another build
# (https://download.pytorch.org/whl/cpu is the small one for Linux without a GPU), or empty to use the interpreter's own.

PYTHON ?= python3
PIP_TORCH ?= torch==2.13.0
MINUTES ?=
ARGS ?=
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
SOURCES := src tests bench
STRUCTURE := $(addprefix tests/test_,layers.py budget.py references.py near_twins.py words.py)  # of `make check`
NUMERIC := $(addprefix tests/,nn families surgery proof adapters infer)
LOWER_ISA := $(shell grep -qs avx512f /proc/cpuinfo \
	&& echo ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	|| echo ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_ENABLE_INSTRUCTIONS=SSE4_2)
# Processes with one thread each: two threads of one process mostly wait for each other in tests this small.
# A file stays in one process, which shares its fixtures. The other targets have one process with torch's own
# threads, as WORKERS=0 has.
PARALLEL := $(if $(filter-out 0,$(WORKERS)),OMP_NUM_THREADS=1) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
GPU_BENCHES := $(wildcard bench/gpu_*.py)
BENCHES := bench/train_step.py bench/forward.py bench/load.py

# A process that imports torch starts in 5 s with cached bytecode and in 20 s without, and pip caches none.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-isa test-all test-gpu test-real bench bench-gpu check clean

demo: .venv/installed
	$(BIN)/coterie quickstart $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

test: .venv/installed-test
	$(PARALLEL) -m "not slow and not gpu and not net" $(addprefix --ignore=,$(STRUCTURE)) $(ARGS)

# The numeric tests once more with the instruction set below this processor's: sums run in another order there.
test-isa: .venv/installed-test
	$(LOWER_ISA) $(BIN)/python -m pytest -m "not slow and not gpu and not net" $(NUMERIC) $(ARGS)

test-all: .venv/installed-test
	$(BIN)/python -m pytest -m "not gpu" $(ARGS)

test-gpu: .venv/installed-test
	$(BIN)/python -m pytest -m gpu $(ARGS)

# One published model through everything, fetched once into ~/.cache/coterie-tests (or $COTERIE_TEST_CACHE).
test-real: .venv/installed-test
	$(BIN)/python -m pytest -m real -rs $(ARGS)

bench: .venv/installed-test
	set -e; for file in $(BENCHES); do $(BIN)/python $$file $(ARGS); done
	$(BIN)/python bench/tables.py

bench-gpu: .venv/installed-test
	set -e; for file in $(GPU_BENCHES); do $(BIN)/python $$file $(ARGS); done

check: .venv/installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy src/coterie
	$(BIN)/python -m pytest $(STRUCTURE)

clean:
	rm -rf .venv build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Each stamp is one pip call: with the stamps in place and nothing changed, no target installs anything.
# torch is named before the rest and left out of the constraints, so that PIP_TORCH alone decides it.
.venv/torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is missing or older than Python 3.11; name a newer one with PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(if $(strip $(PIP_TORCH)),,--system-site-packages) .venv
	$(if $(strip $(PIP_TORCH)),$(PIP) $(PIP_TORCH),$(BIN)/python -c "import torch")
	@touch $@

.venv/constraints.txt: constraints.txt .venv/torch
	@grep -v '^torch==' $< > $@

.venv/installed: .venv/constraints.txt pyproject.toml
	$(PIP) -c $< -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) -c .venv/constraints.txt -e ".[test]"
	@touch $@

.venv/installed-dev: .venv/installed-test
	$(PIP) -c .venv/constraints.txt -e ".[test,dev]"
	@touch $@
