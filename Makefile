# The one toolbox; CI uses the same commands. Everything runs in .venv, made on first use.
PLUGIN ?=
PY := .venv/bin/python
TESTS := $(if $(PLUGIN),tests/$(PLUGIN),tests)

.PHONY: fast test check bench docs clean

PACKAGES := core $(wildcard plugins/*)

.venv: constraints.txt $(PACKAGES:%=%/pyproject.toml)
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt $(PACKAGES:%=-e "./%[test]") ruff mypy types-PyYAML
	touch .venv

fast: .venv  ## tests under a minute
	$(PY) -m pytest -n 2 -m "not slow" $(TESTS)

test: .venv  ## every test; PLUGIN=vision for one plugin's
	$(PY) -m pytest -n 2 $(TESTS)

check: .venv  ## format, lint, types
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

bench: .venv  ## speed and replications; an hour and more
	$(PY) benchmarks/trainer_overhead.py
	$(PY) benchmarks/loading.py
	$(PY) benchmarks/vision_first.py

docs: .venv  ## the site, into site/; a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

clean:
	rm -rf .venv build dist site .pytest_cache .mypy_cache .ruff_cache
