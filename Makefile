# Two commands do all the set-up on a fresh Debian 12 machine: `make demo` and `make test`. `make check` is the inner loop.
# Everything that they need is installed here: Debian packages by apt (as root or through sudo), Python packages by pip.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := check

SITE ?= inventories/lab
BIN := .venv/bin
HALLIGAN := $(BIN)/halligan
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PYTHON ?= python3

# What the lab, the tests and the demo use beyond a minimal Debian 12. PostgreSQL and sshd serve tests only.
LAB := mmdebstrap systemd-container netcat-openbsd iproute2 openssh-client util-linux procps
BOOT := dnsmasq-base ipxe
IMAGES := squashfs-tools zstd gdisk fdisk dosfstools mtools e2fsprogs qemu-utils
MACHINES := qemu-system-x86 ovmf ipxe-qemu
PACKAGES := python3-venv $(LAB) $(BOOT) $(IMAGES) $(MACHINES)
TEST_PACKAGES := $(PACKAGES) openssh-server postgresql sudo busybox-static cpio
missing = $(shell for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done)

.PHONY: check demo test fmt lint lint-ansible types unit bench docs clean packages test-packages venv demo-down

## demo: build the lab, plan, apply, prove that it works; a second time changes nothing
demo: packages venv
	$(SUDO) $(HALLIGAN) secrets init $(SITE)
	$(SUDO) $(HALLIGAN) image build discovery --kernel cloud
	$(SUDO) $(HALLIGAN) image build debian-12
	$(SUDO) $(HALLIGAN) lab up $(SITE)
	$(SUDO) $(HALLIGAN) plan $(SITE) || [ $$? = 2 ]
	$(SUDO) $(HALLIGAN) apply $(SITE) --yes --allow-destroy 'install@bare-*'
	$(SUDO) $(HALLIGAN) log $(SITE) --step smoke@prb-1
	$(SUDO) $(HALLIGAN) trace $(SITE) bare-1
	$(SUDO) $(HALLIGAN) nodes $(SITE)
	@echo
	@echo "The lab runs, its smoke test passed, and bare-1 went from an empty disk to a configured host. What to look at next:"
	@echo "  $(HALLIGAN) status $(SITE)             what is applied where"
	@echo "  $(HALLIGAN) plan $(SITE)               nothing to do; change a variable and look again"
	@echo "  $(HALLIGAN) check $(SITE)              does any host differ from what was applied?"
	@echo "  $(HALLIGAN) node show $(SITE) bare-1   hardware, life and last events of the bare machine"
	@echo "  $(HALLIGAN) plan inventories/demo-mixed-1000 --format html > plan.html"
	@echo "  make demo-down                                take the lab down, nothing stays behind"

demo-down: venv
	$(SUDO) $(HALLIGAN) lab down $(SITE)

## check: format, lint, types, import layers, unit and golden tests
check: venv lint types unit

## test: everything that a newcomer's machine can prove
test: test-packages venv check lint-ansible
	$(SUDO) $(BIN)/python -m pytest -n 2 --dist loadfile tests/component tests/bench
	$(SUDO) $(BIN)/python -m pytest -n 2 tests/roles
	$(SUDO) $(BIN)/python -m pytest tests/system

lint: venv
	$(BIN)/ruff format --check orchestrator plugins pxe tests
	$(BIN)/ruff check orchestrator plugins pxe tests
	$(BIN)/lint-imports
	$(BIN)/yamllint --strict .

lint-ansible: venv
	$(BIN)/ansible-lint --offline --profile production

types: venv
	$(BIN)/mypy

unit: venv
	$(BIN)/python -m pytest -q -n 2 tests/unit tests/golden

## fmt: put the code into shape
fmt: venv
	$(BIN)/ruff format orchestrator plugins pxe tests
	$(BIN)/ruff check --fix orchestrator plugins pxe tests

## bench: measure, and print the table of docs/performance.md
bench: venv
	$(BIN)/python -m tests.bench

## docs: the pages that are made from code (schema, roles, diagrams)
docs: venv
	$(HALLIGAN) schema --out docs/cluster.schema.json
	$(BIN)/python -m orchestrator.cli.docs

## clean: what the tools left; labs and state stay
clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .ansible .cache/bench build dist *.egg-info

packages: WANTED := $(PACKAGES)
test-packages: WANTED := $(TEST_PACKAGES)
packages test-packages:
	@missing="$(call missing,$(WANTED))"; if [ -n "$$missing" ]; then \
	  $(SUDO) apt-get -q update && $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends $$missing; fi

venv: .venv/installed
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(SUDO) apt-get -q update && $(SUDO) apt-get -q install -y python3-venv; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@
