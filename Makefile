# sudo make lab     a network of real nodes on this machine, shown working, then removed
# sudo make test    every check and every test, those that need root too
# sudo make bench   what AnonNet costs and how fast it is: tables, build/bench.json, build/plots (half an
#                   hour; one group of it: make bench BENCH=micro)
# make check        ruff, mypy --strict, import-linter
# make clean        remove what make made
#
# All of them first see to it that Debian's packages and .venv are there, so a bare Debian 12 with
# Python 3.11 and make will do. A second run finds everything in place and goes straight on.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# sudo and CI may leave out the directories of nft, ip and tcpdump.
export PATH := $(PATH):/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# One package per line: what it is needed for.
PACKAGES := \
	ca-certificates  \
	python3-venv     \
	python3-dev      \
	gcc              \
	libc6-dev        \
	libssl-dev       \
	nftables         \
	iproute2         \
	procps           \
	kmod             \
	tcpdump          \
	iperf3           \
	curl             \
	iputils-ping     \
	bind9-dnsutils   \
	libgcrypt20

# What the tests of applications talk with; their services stay off.
TEST_PACKAGES := \
	vsftpd                \
	dovecot-imapd         \
	dovecot-pop3d         \
	dovecot-submissiond   \
	proxychains4          \
	torsocks
TEST_SERVICES := vsftpd dovecot

VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
BENCH ?= all

.PHONY: help lab test pytest bench check packages environment venv clean

help:
	@sed -n 's/^# \?//; 1,/^$$/p' Makefile

lab: venv
	$(BIN)/anonnet-tun lab demo --rate t3

test pytest: PACKAGES += $(TEST_PACKAGES)

test: check pytest

pytest: venv
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: venv
	@mkdir -p build
	$(BIN)/anonnet-tun bench $(BENCH) --json build/bench.json --plot build/plots

check: venv
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Packages are looked up each time (milliseconds); apt runs only when one is missing, removes nothing, and starts
# no service: policy-rc.d says no meanwhile, and those that come with the tests are not for the next boot either.
packages:
	@command -v apt-get >/dev/null || exit 0; \
	missing=(); \
	for package in $(PACKAGES); do \
	    status=$$(dpkg-query -W -f '$${Status}' $$package 2>/dev/null || true); \
	    [[ $$status == "install ok installed" ]] || missing+=($$package); \
	done; \
	if (( $${#missing[@]} )); then \
	    if (( EUID )); then echo "missing: $${missing[*]} - run this once as root: sudo make venv" >&2; exit 1; fi; \
	    export DEBIAN_FRONTEND=noninteractive; \
	    policy=/usr/sbin/policy-rc.d; \
	    if [[ ! -e $$policy ]]; then \
	        trap "rm -f $$policy" EXIT; \
	        printf '#!/bin/sh\nexit 101\n' > $$policy; \
	        chmod 755 $$policy; \
	    fi; \
	    apt-get update -q; \
	    apt-get install -q -y --no-remove --no-install-recommends "$${missing[@]}" </dev/null; \
	    for service in $(TEST_SERVICES); do \
	        if [[ " $${missing[*]}" == *" $$service"* ]] && command -v systemctl >/dev/null; then \
	            systemctl disable -q $$service || true; \
	        fi; \
	    done; \
	fi

# The stamp holds the checksum of pyproject.toml: times of files mean nothing in a fresh clone.
environment: packages
	@stamp=$$(sha256sum pyproject.toml | cut -d' ' -f1); \
	if [[ $$(cat $(VENV)/stamp 2>/dev/null || true) == "$$stamp" ]] && $(BIN)/python -c 'import anonnet' 2>/dev/null; then exit 0; fi; \
	python=; \
	for candidate in $${PYTHON:-} python3 /usr/bin/python3 python3.1{4,3,2,1}; do \
	    if $$candidate -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [[ -z $$python ]]; then echo "no Python of 3.11 or later: apt install python3, or name one with PYTHON=" >&2; exit 1; fi; \
	rm -rf $(VENV); \
	$$python -m venv $(VENV); \
	$(BIN)/python -m pip install -q -e '.[dev]'; \
	echo "$$stamp" > $(VENV)/stamp

# The native data plane, built again when its sources have changed; what cannot be built is left to Python.
venv: environment
	@$(BIN)/python -c 'import sys; from anonnet import native; sys.exit(bool(native.trouble))' \
	    || $(BIN)/python setup.py -q build_ext --inplace --force

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f anonnet/_native.*.so
	find anonnet tests -name __pycache__ -prune -exec rm -rf {} +
