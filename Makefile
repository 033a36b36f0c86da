# What one can do here. `make` lists it.

PYTHON = python3
SOURCES = zmqpush.py zmqpush-watermark.py zmqpull.py zmqlines setup.py packaging/launcher tests

# What the tests and the bench work with: rsyslog with its own ZeroMQ modules, Redis, a C compiler,
# Debian's pyzmq and aiozmq, tc, strace.
DEBIAN = gcc iproute2 libc6-dev libzmq3-dev logrotate procps python3-aiozmq python3-zmq redis-server rsyslog rsyslog-czmq sqlite3 strace systemd-journal-remote

# The rooms of the tests: `make test ONLY=spool`.
ROOMS = $(sort $(patsubst tests/%/,%,$(dir $(wildcard tests/*/test_*.py))))

# Where `make test-forky` keeps its Debian testing.
FORKY = .forky

# Where the programs are tested and measured: the environment of the Python that PYTHON names.
# .venv has what they need to run, and nothing else; only the demo uses it.
OWN = .venvs/$(shell $(PYTHON) -c 'import sys; print("{}.{}".format(*sys.version_info))')

# $(call apt_install,PACKAGES): installs those that are missing and that this Debian has. Where that
# cannot be (not root, another system, no network) work goes on, and the tests that need them skip.
# SYSTEMD_OFFLINE: the packages' daemons are not started.
define apt_install
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	missing=$$(for package in $(1); do \
		dpkg -s $$package 2>/dev/null | grep -q '^Status: .* installed$$' || echo $$package; \
	done); \
	if [ -n "$$missing" ]; then \
		echo "Installing" $$missing; \
		export DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1; \
		apt-get -qq update && apt-get -qq install --no-install-recommends \
			$$(apt-cache pkgnames | grep -Fx "$$missing") >/dev/null \
			|| echo "That failed; going on without."; \
	fi; \
fi
endef

.PHONY: help demo test test-forky soak chaos bench lint clean debian rooms

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: .venv/.made  ## ship the newest lines of a log of this machine, and show what arrives
	@PATH="$(CURDIR)/.venv/bin:$$PATH" tests/demo.sh

# .venv: a test runs the demo.
test: rooms .venv/.made debian  ## run the tests on every Python 3.9-3.14; ONLY=spool: that room; ALL=1: its long tests, too
	@$(PYTHON) tests/every_python.py $(if $(ALL),--long) $(ONLY)

test-forky: rooms  ## run the tests in a Debian testing, made in FORKY=.forky, with its Python, rsyslog and Redis
	@$(call apt_install,debootstrap)
	@tests/forky/run.sh "$(FORKY)" DEBIAN="$(filter-out python3-aiozmq,$(DEBIAN))" ONLY="$(ONLY)" ALL="$(ALL)"

soak: $(OWN)/.made debian  ## run the tests that take minutes
	$(OWN)/bin/python -m pytest -m soak --timeout=1800

MINUTES = 10

chaos: $(OWN)/.made debian  ## kill, stop and cut off everything at random for MINUTES=10, CHAOS_SEED=N
	CHAOS_SEED=$${CHAOS_SEED:-$$$$} CHAOS_MINUTES=$(MINUTES) \
		$(OWN)/bin/python -m pytest -s tests/chaos -k whatever

bench: $(OWN)/.made debian  ## measure it beside rsyslog and C
	$(OWN)/bin/python -m tests.bench.bench

lint: .venvs/lint/.made  ## check style and types
	.venvs/lint/bin/ruff check $(SOURCES)
	.venvs/lint/bin/ruff format --check $(SOURCES)
	.venvs/lint/bin/mypy --strict $(SOURCES)

clean:  ## remove all that make made here, the virtual environments and Debian testing too
	rm -rf .venv .venvs $(FORKY) .hypothesis .mypy_cache .pytest_cache .ruff_cache build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +

rooms:
	@$(foreach room,$(filter-out $(ROOMS),$(ONLY)),$(error ONLY=$(room): no such room of the tests; there are: $(ROOMS)))

debian:
	@$(call apt_install,$(DEBIAN))

# A virtual environment with what setup.py asks for, but without zmqpush itself: one runs the
# programs of the checkout, and a copy in bin would grow old beside them.
.venv/.made: EXTRAS = progress,redis
.venvs/%/.made: EXTRAS = test
.venvs/lint/.made: EXTRAS = test,lint

VENV = venv

%/.made: setup.py
	@echo "Setting up $*"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call apt_install,python3-venv); }
	@$*/bin/python -c '' 2>/dev/null || $(PYTHON) -m $(VENV) --clear $*
	@$*/bin/python -m pip install -qq --disable-pip-version-check '.[$(EXTRAS)]'
	@$*/bin/python -m pip uninstall -qq -y zmqpush
	@rm -rf build zmqpush.egg-info
	@touch $@
