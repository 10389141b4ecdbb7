# Everything one can do with a checkout; `make` lists it. Needs Python 3.11-3.14 with venv, and make.
# Two environments: .venv is what a board runs and nothing else, so that sizes and times measured in it are true (the
# development tools bring rich, which structlog imports wherever it finds it); .venv-dev has the tools as well.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
# onnxruntime's Linux wheels report sessions and models to their maker unless told not to.
export ORT_DISABLE_TELEMETRY = 1

# The interpreter behind both environments: the newest supported one that can make them, unless given.
PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3.11 python3; do \
	"$$python" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null \
	&& echo "$$python" && break; done)
# Handed on to npumon, pytest or uv by the targets that start them.
ARGS ?=
# Tests wait for daemons more than they compute: one process more than there are cores.
WORKERS ?= $(shell echo $$(($$(nproc) + 1)))
# The board that a bundle is for.
MACHINE ?= aarch64
BOARD_PYTHON ?= 3.12

RUN := .venv/bin/python
DEV := .venv-dev/bin/python
SOURCES := monitor tests tools benchmarks grafana

.PHONY: help
help: ## list what can be done
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: .venv/.done ## the demo: the daemon on the simulator with two models (ARGS= for npumon demo)
	.venv/bin/npumon demo $(ARGS)

.PHONY: test
test: lint models ## all checks and tests but the slow ones (ARGS= for pytest)
	$(DEV) -m pytest -n $(WORKERS) --dist loadfile -m 'not slow and not torch and not systemd' $(ARGS)

.PHONY: test-slow
test-slow: .venv-dev/.done .venv-supply/.done models ## the tests that take more than half a minute each, then test-prometheus (ARGS= for pytest)
	$(DEV) -m pytest -m slow $(ARGS)
	$(MAKE) --no-print-directory test-prometheus

.PHONY: test-prometheus
test-prometheus: .venv-dev/.done models ## rules, dashboards, chain and fleet on the newest Prometheus of Debian
	programs="$$($(DEV) -m tools.prometheus)" && CI=true PATH="$$programs:$$PATH" $(DEV) -m pytest tests/grafana \
		--ignore=tests/grafana/test_types.py --ignore=tests/grafana/test_loki.py $(ARGS)

.PHONY: test-systemd
test-systemd: .venv-dev/.done ## install, run and break npumon under a real systemd, in a container, as root
	@command -v systemd-nspawn dbus-daemon >/dev/null || apt-get install -y -qq --no-install-recommends systemd-container dbus
	CI=true $(DEV) -m pytest -m systemd tests/systemd $(ARGS)

.PHONY: test-aarch64
test-aarch64: .venv-dev/.done models ## the board's own binaries: npumon on its aarch64 wheels, emulated (ARGS= for pytest)
	CI=true $(DEV) -m pytest tests/aarch64 $(ARGS)

.PHONY: test-torch
test-torch: .venv-torch/.done ## compare FLOPs with torch's own counter (ARGS= for pytest)
	.venv-torch/bin/python -m pytest tests/counters/test_torch.py $(ARGS)

.PHONY: fuzz
fuzz: .venv-fuzz/.done ## fuzz the readers of files and pipes, ten to twenty minutes (ARGS="sample -runs=1000000")
	.venv-fuzz/bin/python -m tests.fuzz $(ARGS)

.PHONY: lint
lint: .venv-dev/.done ## style, types and import contracts
	$(DEV) -m ruff check $(SOURCES)
	$(DEV) -m ruff format --check $(SOURCES)
	$(DEV) -m mypy
	.venv-dev/bin/lint-imports

.PHONY: format
format: .venv-dev/.done ## rewrite the sources as lint wants them, where a tool can
	$(DEV) -m ruff check --fix $(SOURCES)
	$(DEV) -m ruff format $(SOURCES)

.PHONY: bench
bench: .venv/.done models ## every benchmark but neighbour and endurance, each against its budget
	@status=0; for benchmark in $(filter-out %/neighbour.py %/endurance.py, $(wildcard benchmarks/[a-z]*.py)); do \
		echo "== $$benchmark"; $(RUN) "$$benchmark" || status=1; done; exit $$status

.PHONY: neighbour
neighbour: .venv/.done ## whether an application beside npumon notices it: its 99th percentile, an hour (ARGS=--rounds 40)
	$(RUN) benchmarks/neighbour.py $(ARGS)

.PHONY: endurance
endurance: .venv/.done ## whether 50,000 checks leave anything, some 20 minutes (ARGS="--settling 500 --checks 2000")
	$(RUN) benchmarks/endurance.py $(ARGS)

.PHONY: dashboards
dashboards: .venv-dev/.done ## write grafana/dashboards anew from grafana/*.py
	$(DEV) -m grafana.dashboards

.PHONY: reference
reference: .venv-dev/.done ## write the tables of docs/metrics.md and docs/events.md anew from the code
	$(DEV) -m tools.reference

.PHONY: pictures
pictures: .venv-dev/.done ## draw docs/images/dashboard-*.png from a simulated rollout (needs npm, chromium, prometheus)
	$(DEV) -m tests.grafana.episode

.PHONY: detection
detection: .venv-dev/.done ## how soon faults are found, how often it cries wolf, into docs/detection.md
	$(DEV) -m benchmarks.detection --write $(ARGS)

.PHONY: models
models: .venv-dev/.done ## fetch the published models of the tests into the cache outside git
	@$(DEV) tools/fetch_models.py >/dev/null

.PHONY: wheel
wheel: .venv-dev/.done ## build dist/npumon-*.whl, for a board
	rm -rf build
	$(DEV) -m pip wheel --quiet --no-deps --no-build-isolation --no-index --wheel-dir dist .

.PHONY: licences
licences: .venv-dev/.done ## write docs/licences.md anew: what is shipped, and under which terms
	$(DEV) -m tools.licences

.PHONY: sbom
sbom: wheel .venv-supply/.done ## write dist/npumon-*.cdx.json: what a bundle ships, as CycloneDX (MACHINE=aarch64 BOARD_PYTHON=3.12)
	@home=$$($(DEV) tools/bundle.py --machine $(MACHINE) --python $(BOARD_PYTHON)) && \
	$(PYTHON) -m venv --without-pip build/shipped && \
	echo "$$home/packages" >"$$(echo build/shipped/lib/python3.*)/site-packages/bundle.pth" && \
	name="dist/$$(basename "$$home").cdx.json" && \
	.venv-supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate \
		-o "$$name" build/shipped/bin/python && echo "$$name"

.PHONY: advisories
advisories: .venv-supply/.done ## ask PyPI for known vulnerabilities of what is shipped; no answer is a failure
	.venv-supply/bin/pip-audit --strict --require-hashes --disable-pip -r requirements/run.txt

.PHONY: bundle
bundle: wheel ## build dist/npumon-*.tar.gz, all that a board needs (MACHINE=aarch64 BOARD_PYTHON=3.12)
	@home=$$($(DEV) tools/bundle.py --machine $(MACHINE) --python $(BOARD_PYTHON)); name=$$(basename "$$home"); \
	tar -C build -czf "dist/$$name.tar.gz" "$$name"; echo "dist/$$name.tar.gz"

.PHONY: install
install: as-root wheel ## install npumon on this machine as a service, or upgrade it (PREFIX=/opt/npumon PYTHON=)
	@home=$$($(DEV) tools/bundle.py) && sh "$$home/install.sh" install

.PHONY: uninstall
uninstall: ## remove it, but for configuration and state (PREFIX=/opt/npumon; PURGE=1 removes these too)
	@sh systemd/install.sh uninstall

.PHONY: as-root
as-root:
	@test "$$(id -u)" = 0 || { echo 'make install needs root; run it with sudo' >&2; exit 1; }

.PHONY: pins
pins: .venv-dev/.done ## resolve requirements/*.txt anew (ARGS=--upgrade for newer versions)
	$(call pin,run,)
	$(call pin,demo,--extra demo --group build --constraint requirements/run.txt)
	$(call pin,dev,--extra demo --extra test --group build --group dev --constraint requirements/run.txt)
	$(call pin,supply,--group build --group supply)
	$(call pin,fuzz,--group build --group fuzz --constraint requirements/run.txt)

.PHONY: clean
clean: ## remove the environments and everything that was built (not the cached models)
	rm -rf .venv .venv-dev .venv-fuzz .venv-supply .venv-torch build dist *.egg-info .*_cache .hypothesis
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.done: requirements/demo.txt pyproject.toml
	$(call environment,.venv,requirements/demo.txt)

.venv-dev/.done: requirements/dev.txt pyproject.toml
	$(call environment,.venv-dev,requirements/dev.txt)

.venv-supply/.done: requirements/supply.txt pyproject.toml
	$(call environment,.venv-supply,requirements/supply.txt)

.venv-fuzz/.done: requirements/fuzz.txt pyproject.toml
	$(call environment,.venv-fuzz,requirements/fuzz.txt)

# Which of torch's many builds fits is up to the machine and its index, so that no hash is given; a CPU build will do.
.venv-torch/.done: requirements/dev.txt pyproject.toml
	$(call environment,.venv-torch,requirements/dev.txt)
	.venv-torch/bin/python -m pip install --quiet --only-binary=:all: torch==2.13.0

# environment DIRECTORY REQUIREMENTS: wheels only, because building one would fetch what no hash pins.
define environment
	@test -n "$(PYTHON)" || { echo 'npumon needs Python 3.11-3.14 with venv and ensurepip' \
		'(Debian: apt-get install python3-venv), or make PYTHON=/path/to/python' >&2; exit 1; }
	@echo 'setting up $(1), once; most of a minute'
	$(PYTHON) -m venv --clear $(1)
	$(1)/bin/python -m pip install --quiet --require-hashes --only-binary=:all: -r $(2)
	$(1)/bin/python -m pip install --quiet --no-deps --no-build-isolation --no-index --editable .
	@touch $@
endef

# pin NAME OPTIONS: one file for every supported Python, on x86-64 and aarch64.
define pin
	$(DEV) -m uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --python-version 3.11 \
		--custom-compile-command 'make pins' $(ARGS) $(2) pyproject.toml -o requirements/$(1).txt
endef
