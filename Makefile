# Two commands do everything on a fresh machine; each makes .venv from pyproject.toml if there is none.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

.PHONY: demo test clean

demo: $(READY)
	$(VENV)/bin/jmlv demo

# The tests compile far more than they run: XLA is told not to optimise, and keeps its programs.
test: $(READY)
	XLA_FLAGS="--xla_backend_optimization_level=0 $$XLA_FLAGS" \
	JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.pytest_cache/programs" \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0.1 \
	$(VENV)/bin/python -m pytest -q -n 2 --dist worksteal

$(READY): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info results
