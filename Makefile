# What a developer runs. Every target makes .venv when there is none and installs what it needs
# from the pin files in requirements/; nothing but Python (3.10 to 3.13) and make has to be there.
#
#   PYTHON=/path/to/python3.12   the interpreter for a new .venv
#   VENV=.venv312                another environment beside it
#   ARGS="-k clip -x"            passed on to pytest by test and bench

VENV ?= .venv
ARGS ?=
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --quiet
# Two cores are shared well enough by one thread a process; the tests compare bit for bit anyway.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-kill test-loggers test-xla test-ignite lint format types bench bench-smoke bench-peers wheel docs pins \
	pages ci clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | \
		awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'

# One stamp for each pin file: touched when it is installed, made again when it changes.
$(VENV)/.made:
	@python=$$(sh tools/find_python.sh) && echo "making $(VENV) with $$python" && \
		"$$python" -m venv --clear $(VENV)
	@touch $@

$(VENV)/.base: requirements/base.txt setup.cfg setup.py pyproject.toml | $(VENV)/.made
	@echo "installing leyden and requirements/base.txt (the first time takes minutes)"
	@$(PIP) -r requirements/base.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

# Each layer after the one its pin file builds on: -r in the file installs that one too.
$(VENV)/.demo: $(VENV)/.base
$(VENV)/.test: $(VENV)/.demo
$(VENV)/.loggers: $(VENV)/.test
$(VENV)/.bench: $(VENV)/.test
$(VENV)/.bench-peers: $(VENV)/.bench
$(VENV)/.lint: $(VENV)/.base
$(VENV)/.wheel: $(VENV)/.test
$(VENV)/.docs: $(VENV)/.made

$(VENV)/.demo $(VENV)/.test $(VENV)/.loggers $(VENV)/.bench $(VENV)/.bench-peers $(VENV)/.lint \
$(VENV)/.wheel $(VENV)/.docs: \
$(VENV)/.%: requirements/%.txt
	@echo "installing $<"
	@$(PIP) -r $<
	@touch $@

venv: $(addprefix $(VENV)/.,test bench lint wheel docs) ## the environment alone, with all tools

demo: $(VENV)/.demo ## train a digits classifier: accuracy, checkpoint, TensorBoard log, curves
	$(PY) examples/digits.py

test: $(VENV)/.test ## the tests (fewer: make test ARGS='-m "not slow"')
	$(PYTEST) --durations=10 --durations-min=0.25 $(ARGS)

test-kill: $(VENV)/.test ## kill 60 runs at random moments, let them go on, compare their bits
	LEYDEN_KILL_RUNS=60 $(PYTEST) -s -o faulthandler_timeout=600 tests/trainer/test_kill_fuzz.py $(ARGS)

test-loggers: $(VENV)/.loggers ## W&B, MLflow and ignite's loggers for real, offline
	LEYDEN_TEST_LOGGERS=1 $(PYTEST) tests/handlers/loggers/test_extras.py $(ARGS)

test-xla: ## TPUs on the real torch_xla, on its CPU devices; the core tests on torch 2.9
	@sh tools/xla_lane.sh $(ARGS)

test-ignite: $(VENV)/.test ## ignite's own tests, on its Engine and on ours
	OMP_NUM_THREADS=1 $(PY) tools/ignite_lane.py

lint: $(VENV)/.lint ## ruff: rules and format
	@status=0; set -x; \
	$(BIN)/ruff check . || status=1; \
	$(BIN)/ruff format --check . || status=1; \
	{ set +x; } 2>/dev/null; exit $$status

format: $(VENV)/.lint ## put the code into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.lint ## mypy --strict over the four packages, then pyright
	$(PY) tools/typetree.py
	@status=0; set -x; \
	(cd .types && $(abspath $(BIN))/mypy --config-file ../setup.cfg -p leyden) || status=1; \
	(cd .types && $(abspath $(BIN))/pyright --pythonpath $(abspath $(PY))) || status=1; \
	{ set +x; } 2>/dev/null; exit $$status

bench: $(VENV)/.bench ## the benchmark table (peers that are not installed are left out)
	$(PYTEST) benchmarks $(ARGS)

bench-smoke: $(VENV)/.bench ## every benchmark once, without measuring
	$(PYTEST) benchmarks --benchmark-disable $(ARGS)

bench-peers: $(VENV)/.bench-peers ## the benchmark table next to Lightning and Accelerate
	$(PYTEST) benchmarks $(ARGS)

wheel: $(VENV)/.wheel ## build sdist and wheel, run the tests against the installed wheel elsewhere
	$(PY) tools/wheel_check.py

# The variable silences news about a later mkdocs.
docs: $(VENV)/.docs ## the documentation site, in build/site
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "read it in a browser: build/site/index.html"

pins: $(VENV)/.test ## resolve requirements/*.in again (needs python3.10 to python3.13)
	$(PY) tools/pins.py python3.10 python3.11 python3.12 python3.13

pages: $(VENV)/.test ## make the generated pages, tables and printed outputs of the docs again
	$(PY) tools/draw_states.py
	$(PY) tools/hook_page.py
	$(PY) tools/argument_page.py
	$(PY) tools/handler_page.py
	$(PY) tools/doc_blocks.py

ci: ## everything that has to pass, as .ci/run does it
	.ci/run

clean: ## remove what builds and tools left; keeps .venv
	rm -rf build dist *.egg-info .types .mypy_cache .pytest_cache .ruff_cache .hypothesis \
		.benchmarks .coverage htmlcov
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
	@rm -f $(VENV)/.base

distclean: clean ## clean, and remove .venv
	rm -rf $(VENV)
