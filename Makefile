# What one can do here. `make` lists it.

PYTHON = python3
EXTRAS = progress,redis,test,lint
SOURCES = zmqpush.py zmqpush-watermark.py zmqpull.py zmqlines setup.py packaging/launcher tests

# What the tests and the bench work with: rsyslog with its own ZeroMQ modules, Redis, a C compiler,
# Debian's pyzmq and aiozmq, tc.
DEBIAN = gcc iproute2 libc6-dev libzmq3-dev logrotate procps python3-aiozmq python3-zmq redis-server rsyslog rsyslog-czmq sqlite3

# $(call apt_install,PACKAGES): installs those that are missing. Where that cannot be (not root,
# another system, no network) work goes on, and the tests that need them skip.
# SYSTEMD_OFFLINE: the packages' daemons are not started.
define apt_install
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	missing=$$(for package in $(1); do \
		dpkg -s $$package 2>/dev/null | grep -q '^Status: .* installed$$' || echo $$package; \
	done); \
	if [ -n "$$missing" ]; then \
		echo "Installing" $$missing; \
		export DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1; \
		apt-get -qq update && apt-get -qq install --no-install-recommends $$missing >/dev/null \
			|| echo "That failed; going on without."; \
	fi; \
fi
endef

.PHONY: help demo test soak chaos bench lint clean debian

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

demo: .venv/.made  ## ship the newest lines of a log of this machine, and show what arrives
	@PATH="$(CURDIR)/.venv/bin:$$PATH" tests/demo.sh

test: .venv/.made debian  ## run the test suite on every Python 3.9-3.14 of this machine
	@.venv/bin/python tests/every_python.py

soak: .venv/.made debian  ## run the tests that take minutes
	.venv/bin/python -m pytest -m soak --timeout=1800

MINUTES = 10

chaos: .venv/.made debian  ## kill, stop and cut off everything at random for MINUTES=10, CHAOS_SEED=N
	CHAOS_SEED=$${CHAOS_SEED:-$$$$} CHAOS_MINUTES=$(MINUTES) \
		.venv/bin/python -m pytest -s tests/chaos -k whatever

bench: .venv/.made debian  ## measure it beside rsyslog and C
	.venv/bin/python -m tests.bench.bench

lint: .venv/.made  ## check style and types
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/mypy --strict $(SOURCES)

clean:  ## remove all that make made here, the virtual environments too
	rm -rf .venv .venvs .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

debian:
	@$(call apt_install,$(DEBIAN))

# A virtual environment with what setup.py asks for, but without zmqpush itself: one runs the
# programs of the checkout, and a copy in bin would grow old beside them.
%/.made: setup.py
	@echo "Setting up $*"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call apt_install,python3-venv); }
	@$*/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $*
	@$*/bin/python -m pip install -q --disable-pip-version-check '.[$(EXTRAS)]'
	@$*/bin/python -m pip uninstall -q -y zmqpush
	@rm -rf build zmqpush.egg-info
	@touch $@
