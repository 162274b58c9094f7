# make up           install the packages, then generate, start and verify a cluster (WORKERS=4 for four workers;
#                   ARGS=--yes confirms changes to an existing cluster)
# make example-users, make example-replication, make example-sharding
#                   start a cluster with this example, or add it to the existing cluster, and print requests to try
# make test         run every test that this machine can run, in two processes (JOBS=1: in one process), and list the
#                   skipped tests with the reasons
# make test-lowest  run unit and golden tests under the oldest supported Python (LOWEST=/usr/bin/python3.11)
# make lint         check formatting, lint and types
# make lessons      check every lab and project of the course in lessons/ on the cluster of this directory
# make bench        run the benchmarks and print ratios
# make docs         update the generated parts of the documents, the JSON Schema, the dashboard for Grafana and
#                   config/cluster.full.yaml
# make parameters   update the table of parameters from a server of each PostgreSQL major version

PYTHON ?= python3
WORKERS ?= 3
JOBS ?= 2
# An existing cluster keeps its number of workers unless WORKERS is set.
ASKED := $(filter-out file,$(origin WORKERS))$(if $(wildcard cluster.yaml),,new)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: up example-users example-replication example-sharding lessons test test-lowest lint bench docs parameters venv

up: venv
	$(BIN)/python setup_citus_cluster.py $(if $(ASKED),--workers=$(WORKERS)) --up $(ARGS)

example-users example-replication example-sharding: venv
	$(BIN)/python -m tools.start_example $@ $(ARGS)

lessons: $(VENV)/lessons-installed
	$(BIN)/python -m lessons check

test: $(VENV)/lessons-installed
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --durations 40

# Empty if there is no such Python, or none that can create virtual environments.
LOWEST ?= $(shell for one in /usr/bin/python3 /usr/bin/python3.11 python3.11; do $$one -c 'import ensurepip, sys, venv; \
	sys.version_info[:2] == (3, 11) and print("%d.%d.%d" % sys.version_info[:3], sys.executable)' 2>/dev/null; done \
	| sort -V | sed -n '1s/.* //p')
LOWEST_VENV := .venv-lowest

test-lowest: $(LOWEST_VENV)/installed
	$(LOWEST_VENV)/bin/python -m pytest -q -m "not cluster" tests/unit tests/golden

$(LOWEST_VENV)/installed: pyproject.toml constraints.txt
	@[ -n "$(LOWEST)" ] || { echo "No Python 3.11 is here; name one: make test-lowest LOWEST=/path/to/python3.11"; exit 1; }
	$(LOWEST) -m venv $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

lint: $(VENV)/lessons-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python -m bench

docs: venv
	PYTHONPATH=tests/support $(BIN)/python -m tools.update_docs

parameters: venv
	$(BIN)/python -m tools.update_parameters

venv: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt examples/pyproject.toml examples/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "This Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the Python packages into $(VENV): half a minute, this time only"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint examples/constraints.txt --editable '.[dev]' --editable './examples[users,replication,sharding,load]'
	@touch $@

# Apart from the above, because only the course needs these: make up is not slower for those who do not take it.
$(VENV)/lessons-installed: $(VENV)/installed lessons/pyproject.toml lessons/constraints.txt
	@echo "Installing the packages of the lessons into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint lessons/constraints.txt --editable './lessons[figures]'
	@touch $@
