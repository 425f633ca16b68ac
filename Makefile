# Two commands do everything on a fresh machine; each makes .venv from pyproject.toml if there is none.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready

# The tests compile far more than they run, so XLA is told not to optimise.

.PHONY: demo test clean

demo: $(READY)
	$(VENV)/bin/jmlv demo

test: $(READY)
	XLA_FLAGS="--xla_backend_optimization_level=0 $$XLA_FLAGS" $(VENV)/bin/python -m pytest -q -n 2 --dist worksteal

$(READY): pyproject.toml
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info results
