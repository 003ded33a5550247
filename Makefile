# make demo   all the set-up, then a cited answer from this project's own handbook
# make test   all the set-up, then the tests
# make lint   style, types and layers        make test-slow   the long tests
# make bench NAME=load   one benchmark with its peer (see docs/benchmarks.md)
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
QUESTION ?= How do I remove a document from a collection?
# Two processes of one thread each: on few cores this is faster than one process of many.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

.PHONY: demo test test-slow lint format bench models clean
.DEFAULT_GOAL := demo

demo: $(VENV)/core models
	$(VENV)/bin/modelworks ask docs "$(QUESTION)"

test: $(VENV)/dev models
	$(PYTEST) -m "not slow"

test-slow: $(VENV)/dev $(VENV)/ray models
	$(PYTEST) -m slow

lint: $(VENV)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/dev models
	@test -n "$(NAME)" || { echo "name a benchmark: make bench NAME=load; there are: $$(ls benchmarks/*.py | xargs -n1 basename | sed 's/\.py//; s/_/-/g' | xargs)"; exit 2; }
	@test -f "benchmarks/$(subst -,_,$(NAME)).py" || { echo "there is no benchmark named $(NAME)"; exit 2; }
	@if [ -f "benchmarks/$(subst -,_,$(NAME)).peers.txt" ]; then \
	  test -d .venv-bench-$(NAME) || { $(PYTHON) -m venv .venv-bench-$(NAME) && \
	  .venv-bench-$(NAME)/bin/python -m pip --disable-pip-version-check --quiet install -r benchmarks/$(subst -,_,$(NAME)).peers.txt; }; fi
	@$(PY) benchmarks/$(subst -,_,$(NAME)).py $(ARGS)

models: $(VENV)/core
	@$(VENV)/bin/modelworks pull starter starter-embedder

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON) (install Python 3.11 or later)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "missing: Python 3.11 or later ($(PYTHON) is $$($(PYTHON) -V)); set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing: pip and venv for $(PYTHON) (on Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core: pyproject.toml constraints.txt CMakeLists.txt $(wildcard src/modelworks/kernels/cpp/*) | $(VENV)/bin/python
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/dev: $(VENV)/core
	$(PIP) install -c constraints.txt -e '.[dev,oracles]'
	@touch $@

# Ray is 390 MB with all that it needs, and only slow tests need it.
$(VENV)/ray: $(VENV)/dev
	$(PIP) install -c constraints.txt 'ray[data,serve]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-bench-* build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache
