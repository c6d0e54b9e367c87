# Every step is one line. Start with `make demo`; `make demo ARGS=--exit` runs it and leaves.
BIN := .venv/bin

# An interpreter that was built by a profile of itself answers a tenth more requests: the first `python3` of such a
# build. Distributions build theirs so; others say so.
OPTIMIZED := import ensurepip, sys, sysconfig; told = sysconfig.get_config_var("CONFIG_ARGS") or ""; \
	sys.exit(sys.version_info < (3, 11) or not (sys.prefix == "/usr" or "--enable-optimizations" in told))
ifndef PYTHON
PYTHON := $(shell for one in python3 /usr/bin/python3; do $$one -c '$(OPTIMIZED)' 2>/dev/null && echo $$one && exit; \
	done; echo python3)
endif

.PHONY: demo demo-kafka test lint format size lock clean flights flights-kafka figures docs bench bench-given bench-log \
	bench-features bench-serve bench-abuse bench-slow bench-forms bench-many bench-beside kafka simulate faults laws \
	consistency strangers

demo: .venv/run.stamp
	$(BIN)/penstock demo $(ARGS)

# The demo on the embedded log, then unchanged on a Kafka broker: the same story, the same digests.
demo-kafka: .venv/dev.stamp
	$(BIN)/python tools/kafka/beside.py $(BIN)/python tools/demo_twice.py --log BROKER/demo $(ARGS)

# Whole files side by side, so that what the tests of one share is made once.
test: lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -rs $(ARGS)

# The year of flights with its figures, and the demo's.
DATA ?= ../shared/data
flights: .venv/dev.stamp
	$(BIN)/python examples/flights/run.py --data $(DATA) $(ARGS)

# The same on a Kafka broker, the stages in three homes, one of them killed every 10 s, against the embedded run.
flights-kafka: .venv/dev.stamp
	$(BIN)/python tools/kafka/beside.py $(BIN)/python examples/flights/run.py --data $(DATA) --months 2 --log BROKER/flights \
		--log-settings examples/flights/kafka.settings --processes 3 --kill-every 10 $(ARGS)

figures: .venv/dev.stamp
	$(BIN)/python tools/demo_figures.py $(ARGS)

# The documents, held against the code: the README's file runs, every verb is told of, every link leads somewhere.
docs: .venv/dev.stamp
	$(BIN)/python -m pytest tests/docs $(ARGS)

bench: .venv/dev.stamp
	$(BIN)/python bench/run.py $(ARGS)

# One ask of two models, one given the other's answer, beside two asks.
bench-given: .venv/dev.stamp
	$(BIN)/python bench/given.py $(ARGS)

bench-log: .venv/dev.stamp
	$(BIN)/python bench/log.py $(ARGS)

# Features beside Feast, storey, river, polars and DuckDB. Those that pin what we or each other use have an environment
# of their own; one that cannot be made is said so, and its figures are short.
bench-features: .venv/dev.stamp
	@for name in features storey; do $(MAKE) -s .venv-bench/$$name/stamp || \
		echo "bench: .venv-bench/$$name cannot be made" >&2; done
	$(BIN)/python bench/features.py $(ARGS)

# Serving beside other servers, each in an environment of its own; one that cannot be made is said so.
SERVERS := fastapi mlserver bentoml litserve kserve mlflow pytriton
bench-serve: .venv/dev.stamp
	@for name in $(SERVERS); do $(MAKE) -s .venv-bench/serve-$$name/stamp || \
		echo "bench: .venv-bench/serve-$$name cannot be made" >&2; done
	$(BIN)/python bench/serve/run.py $(ARGS)

# What each of them does under abuse.
bench-abuse: .venv/dev.stamp
	@for name in $(SERVERS); do $(MAKE) -s .venv-bench/serve-$$name/stamp || \
		echo "bench: .venv-bench/serve-$$name cannot be made" >&2; done
	$(BIN)/python bench/serve/abuse.py $(ARGS)

# Fast forms beside the models that they stand for.
bench-forms: .venv/dev.stamp
	$(BIN)/python bench/forms.py $(ARGS)

# A thousand models on one host: how soon the first answers, what they take while nobody asks, and after all were asked.
bench-many: .venv/dev.stamp
	$(BIN)/python bench/many.py $(ARGS)

# A model of 1 GB loaded while another serves at half of what it manages.
bench-beside: .venv/dev.stamp
	$(BIN)/python bench/serve/beside.py $(ARGS)

# A plain Kafka broker on loopback, for developers: Java 17 and, the first time, Maven. PENSTOCK_KAFKA=3.9.1
# before any target takes that version, for the tests and the faults as well.
kafka: .venv/dev.stamp
	$(BIN)/python tools/kafka/broker.py $(ARGS)

# A thousand seeded schedules of the flights: faults at random, then healed, every law held.
simulate: .venv/dev.stamp
	$(BIN)/penstock simulate examples/flights/lean.py $(ARGS)

# Every part of the fault harness, one table; ARGS="--scale 0.02 --only power" does less.
faults: .venv/dev.stamp
	$(BIN)/python -m tests.faults.run $(ARGS)

# A million feature values: live, restarted, looked up, replayed, and by SQL; ARGS="--values 50000 --seed 7" does less.
laws: .venv/dev.stamp
	$(BIN)/python -m tests.laws.values.run $(ARGS)

# A million values served and folded again: no alert; then one of them wrong in its last bit: one alert.
consistency: .venv/dev.stamp
	$(BIN)/python -m tests.laws.consistency $(ARGS)

# MLflow's client and schemathesis in an environment of their own, then every client that we did not write.
strangers: .venv/dev.stamp .venv-bench/strangers/stamp
	$(BIN)/python -m pytest tests/wire $(ARGS)

lint: .venv/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/dev.stamp
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

size:
	@$(PYTHON) tools/size.py

# Pins for every platform, by hash, without the address of any index.
COMPILE = $(BIN)/uv pip compile -q pyproject.toml --group build --universal --python-version 3.11 --upgrade --no-annotate \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

lock: .venv/dev.stamp
	$(COMPILE) --extra dev -o requirements-dev.lock
	$(COMPILE) --extra examples -c requirements-dev.lock -o requirements.lock
	$(subst pyproject.toml --group build,bench/features.in,$(COMPILE)) -o bench/features.lock
	$(subst pyproject.toml --group build,bench/storey.in,$(COMPILE)) -o bench/storey.lock
	$(subst pyproject.toml --group build,bench/strangers.in,$(COMPILE)) -o bench/strangers.lock
	for name in $(SERVERS); do \
		$(subst pyproject.toml --group build,bench/serve/peers/$$name.in,$(COMPILE)) -o bench/serve/peers/$$name.lock; done

clean:
	rm -rf .venv .venv-bench .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One virtual environment; the second stamp adds what tests need to what runs.
.venv/run.stamp: requirements.lock pyproject.toml | .venv
	$(call install,requirements.lock)
	touch $@

.venv/dev.stamp: requirements-dev.lock pyproject.toml | .venv
	$(call install,requirements-dev.lock)
	touch $@

.venv-bench/%/stamp: bench/%.lock
	$(PYTHON) -m venv .venv-bench/$*
	.venv-bench/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

.venv-bench/serve-%/stamp: bench/serve/peers/%.lock
	$(PYTHON) -m venv .venv-bench/serve-$*
	.venv-bench/serve-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

define install
$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1)
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef

.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Penstock needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $@ || { rm -rf $@; exit 1; }
