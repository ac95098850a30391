# sudo make lab     a network of real nodes on this machine, shown working, then removed
# sudo make test    every check and every test, those that need root too
# sudo make bench   what AnonNet costs and how fast it is: tables, build/bench.json, build/plots (50
#                   minutes; one group of it: make bench BENCH=micro)
# make check        ruff, mypy --strict, import-linter
# make sanitize     the native data plane under the address and undefined-behaviour sanitizers (4 minutes)
# make sanitize-threads     its threads under the thread sanitizer (1 minute)
# sudo make install     command, units and user on this host; PREFIX (/usr/local), OPT (/opt/anonnet), DESTDIR
# sudo make uninstall   takes them back; PURGE=1: configuration, keys and user too
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

# What a host needs to run AnonNet (and to build it), and what the lab and the tests need besides.
RUN_PACKAGES := \
	ca-certificates  \
	python3-venv     \
	python3-dev      \
	gcc              \
	libc6-dev        \
	libssl-dev       \
	nftables         \
	iproute2         \
	kmod
PACKAGES := $(RUN_PACKAGES) \
	procps           \
	tcpdump          \
	iperf3           \
	curl             \
	iputils-ping     \
	bind9-dnsutils   \
	libgcrypt20

# What the tests of applications talk with (their services stay off), and what a Debian is booted with.
TEST_PACKAGES := \
	vsftpd                \
	dovecot-imapd         \
	dovecot-pop3d         \
	dovecot-submissiond   \
	proxychains4          \
	torsocks              \
	openssh-server        \
	systemd-container     \
	mmdebstrap            \
	dnsmasq-base
TEST_SERVICES := vsftpd:vsftpd dovecot:dovecot openssh-server:ssh

VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
BENCH ?= all

# What `sanitize` builds, and what it runs: not what counts memory, of which a sanitizer takes its own, nor what forks
# as threads begin, since the child may find the sanitizer's own locks taken.
SANITIZED := build/sanitized
SANITIZER := -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZE ?= tests/proto -k "not leave_nothing and not leaves_nothing and not takes_little and not fork"
THREAD_SANITIZER := -g -fno-omit-frame-pointer -fsanitize=thread
SANITIZE_THREADS ?= tests/proto tests/bench/test_crew.py -k "(crew or 2-threads or 3-threads) and not another_core"

PREFIX ?= /usr/local
OPT ?= /opt/anonnet
DESTDIR ?=
PIP_ARGS ?=
PURGE ?=
UNITS := anonnet.service anonnet-tun.service anonnet-lockdown.service anonnet-socks.service

# The Python to make an environment with; pyenv's shims and the like come last.
define find_python
	python=; \
	for candidate in $${PYTHON:-} $(1) python3.1{4,3,2,1}; do \
	    if $$candidate -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [[ -z $$python ]]; then echo "no Python of 3.11 or later: apt install python3, or name one with PYTHON=" >&2; exit 1; fi
endef

.PHONY: help lab test pytest bench check sanitize sanitize-threads packages environment venv clean install uninstall

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

# In a copy of the tree, so that what is in use stays as it is; built with $(1).
define build_sanitized
	rm -rf $(SANITIZED); mkdir -p $(SANITIZED); \
	cp -r anonnet tests setup.py pyproject.toml README.md LICENSE $(SANITIZED); \
	cd $(SANITIZED); CFLAGS="$(1)" $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace --force
endef

# Without pytest's capture, or a report would go with it.
sanitize: venv
	@$(call build_sanitized,$(SANITIZER))
	@cd $(SANITIZED); PYTHONPATH=. PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0 \
	    LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    $(CURDIR)/$(BIN)/python -m pytest -s -q -m "not root" $(SANITIZE)

# Without address randomisation, which puts things where older thread sanitizers want their own.
sanitize-threads: venv
	@$(call build_sanitized,$(THREAD_SANITIZER))
	@cd $(SANITIZED); setarch -R env PYTHONPATH=. LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" \
	    $(CURDIR)/$(BIN)/python -m pytest -s -q -m "not root" $(SANITIZE_THREADS)

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
	        if [[ " $${missing[*]}" == *" $${service%:*}"* ]] && command -v systemctl >/dev/null; then \
	            systemctl disable -q $${service#*:} || true; \
	        fi; \
	    done; \
	fi

# The stamp holds the checksum of pyproject.toml: times of files mean nothing in a fresh clone.
environment: packages
	@stamp=$$(sha256sum pyproject.toml | cut -d' ' -f1); \
	if [[ $$(cat $(VENV)/stamp 2>/dev/null || true) == "$$stamp" ]] && $(BIN)/python -c 'import anonnet' 2>/dev/null; then exit 0; fi; \
	$(call find_python,python3 /usr/bin/python3); \
	rm -rf $(VENV); \
	$$python -m venv $(VENV); \
	$(BIN)/python -m pip install -q -e '.[dev]'; \
	echo "$$stamp" > $(VENV)/stamp

# The native data plane, built again when its sources have changed; what cannot be built is left to Python.
venv: environment
	@$(BIN)/python -c 'import sys; from anonnet import native; sys.exit(bool(native.trouble))' \
	    || $(BIN)/python setup.py -q build_ext --inplace --force

# An environment of its own below OPT, which outlives this checkout; everything else is small files below PREFIX.
# setuptools would install what an earlier version left in build/. The system's Python first: it stays.
install:
	@$(MAKE) --no-print-directory packages PACKAGES="$(RUN_PACKAGES)"
	@$(call find_python,/usr/bin/python3 python3); \
	rm -rf build/lib build/lib.* build/bdist.*; \
	venv="$(DESTDIR)$(OPT)"; \
	$$python -m venv "$$venv"; \
	"$$venv/bin/python" -m pip install -q $(PIP_ARGS) .; \
	if [[ -n "$(DESTDIR)" ]]; then find "$$venv/bin" -type f -exec sed -i "s|$$venv|$(OPT)|g" {} +; fi
	@for unit in $(UNITS); do \
	    install -d "$(DESTDIR)$(PREFIX)/lib/systemd/system"; \
	    sed -e 's|/usr/local/|$(PREFIX)/|g; s|/opt/anonnet|$(OPT)|g' systemd/$$unit > "$(DESTDIR)$(PREFIX)/lib/systemd/system/$$unit"; \
	done
	@install -D -m 644 systemd/anonnet.sysusers "$(DESTDIR)$(PREFIX)/lib/sysusers.d/anonnet.conf"
	@install -D -m 644 systemd/anonnet.tmpfiles "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/anonnet.conf"
	@install -D -m 644 -t "$(DESTDIR)$(PREFIX)/share/doc/anonnet" README.md docs/*.md docs/anonnet.example.toml
	@install -d -m 750 "$(DESTDIR)/etc/anonnet"
	@install -d "$(DESTDIR)$(PREFIX)/bin"
	@ln -sfn "$(OPT)/bin/anonnet-tun" "$(DESTDIR)$(PREFIX)/bin/anonnet-tun"
	@if [[ -z "$(DESTDIR)" ]] && command -v systemctl >/dev/null; then \
	    systemd-sysusers "$(PREFIX)/lib/sysusers.d/anonnet.conf"; \
	    systemd-tmpfiles --create "$(PREFIX)/lib/tmpfiles.d/anonnet.conf"; \
	    systemctl -q enable anonnet-lockdown.service; \
	    if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi; \
	    if systemctl -q is-active anonnet; then echo "the node still runs as before: systemctl restart anonnet"; fi; \
	fi
	@echo "installed: next, anonnet-tun init (see README.md)"

# Refused while the firewall stands: without the command nobody could open this host again.
uninstall:
	@if [[ -z "$(DESTDIR)" ]] && nft list table inet anonnet >/dev/null 2>&1; then \
	    echo "this host is up or blocked: first anonnet-tun down (and lockdown off)" >&2; exit 1; \
	fi
	@if [[ -z "$(DESTDIR)" && -d /run/systemd/system ]]; then systemctl -q disable --now $(UNITS) 2>/dev/null || true; \
	elif [[ -z "$(DESTDIR)" ]] && command -v systemctl >/dev/null; then systemctl -q disable $(UNITS) 2>/dev/null || true; fi
	rm -rf "$(DESTDIR)$(OPT)" "$(DESTDIR)$(PREFIX)/share/doc/anonnet"
	rm -f "$(DESTDIR)$(PREFIX)/bin/anonnet-tun" $(UNITS:%="$(DESTDIR)$(PREFIX)/lib/systemd/system/%")
	rm -f "$(DESTDIR)$(PREFIX)/lib/sysusers.d/anonnet.conf" "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/anonnet.conf"
	@if [[ -z "$(DESTDIR)" && -d /run/systemd/system ]]; then systemctl daemon-reload; fi
	@if [[ -n "$(PURGE)" ]]; then \
	    rm -rf "$(DESTDIR)/etc/anonnet" "$(DESTDIR)/var/lib/anonnet" "$(DESTDIR)/run/anonnet"; \
	    if [[ -z "$(DESTDIR)" ]] && getent passwd anonnet >/dev/null; then userdel anonnet; fi; \
	fi

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f anonnet/_native.*.so
	find anonnet tests -name __pycache__ -prune -exec rm -rf {} +
