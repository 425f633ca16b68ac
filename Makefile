# Two commands do everything on a fresh machine; each makes .venv from pyproject.toml if there is none.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint annotations nightly coverage types wheel docs oldest newest results clean

demo: $(READY)
	$(VENV)/bin/jmlv demo

# The tests compile far more than they run: XLA is told not to optimise, and keeps its programs. Its old
# emitters compile in two thirds of the time, and one file a program in less than two; a jaxlib without these
# flags would end at once, so they are tried.
UNOPTIMISED := --xla_backend_optimization_level=0
QUICK := --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1

PYTEST = XLA_FLAGS="$(QUICK)" $(VENV)/bin/python -c "import jax; jax.devices()" 2>/dev/null \
	&& FASTER="$(QUICK)"; \
	XLA_FLAGS="$(UNOPTIMISED) $$FASTER $$XLA_FLAGS" \
	JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.pytest_cache/programs" \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 \
	$(VENV)/bin/python -m pytest -q -n 2 --dist worksteal

test: $(READY)
	$(PYTEST)

# Rules of the code, and its layout.
lint: $(READY)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .

# Annotations hold, shapes among them, in the calls that these tests make; TESTS=tests/oracles are others.
annotations: TESTS := tests/values tests/graph/test_graph.py
annotations: $(READY)
	export CHECK_ANNOTATIONS=1; $(PYTEST) $(TESTS)

# What is too dear for every day, and more random cases of what is not.
nightly: $(READY)
	export HYPOTHESIS_PROFILE=nightly; $(PYTEST) -m "slow or not slow"

# Lines and branches that the tests reach; those of the verdict rules are listed one by one.
RULES := jmlv/oracles/judge.py,jmlv/verdict.py,jmlv/oracles/answers.py,jmlv/oracles/verify.py,jmlv/labels/result.py

coverage: $(READY)
	$(PIP) --editable '.[dev]'
	$(PYTEST) --cov=jmlv --cov=jmlv_check --cov-branch --cov-report=html:htmlcov
	$(VENV)/bin/python -m coverage report --include='$(RULES)' --show-missing

types: $(READY)
	$(PIP) --editable '.[dev]'
	$(VENV)/bin/python -m pyright --pythonpath $(VENV)/bin/python

# The wheel in an environment of its own, where README's examples run as they are written.
wheel:
	PYTHON=$(PYTHON) .ci/wheel

# The tests with the lowest versions that pyproject.toml allows, and with the newest that there are, each in an
# environment of its own; TESTS=tests/graph is a part of them. Old versions warn of one another.
TESTS ?=
oldest: VENV := .venv-oldest
oldest: RESOLUTION := lowest-direct
oldest: FORGIVEN := -W ignore::DeprecationWarning
newest: VENV := .venv-newest
newest: RESOLUTION := highest

oldest newest:
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) uv
	$(VENV)/bin/uv pip install --quiet --python $(VENV) --resolution $(RESOLUTION) --editable '.[test]'
	$(PYTEST) $(FORGIVEN) $(TESTS)

# The tables of docs/results.md, from the files that measurements left in docs/results.
results: $(READY)
	$(VENV)/bin/python experiments/recorded.py

docs: $(READY) results
	$(PIP) --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

$(READY): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest build site htmlcov .coverage *.egg-info results
