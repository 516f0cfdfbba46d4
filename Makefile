RECIPE ?= demo
DATA ?=
BIN := .venv/bin
READY := .venv/.ready

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test test-slow lint bench bench-loss bench-coarse bench-data bench-ranker bench-serve clean

demo: $(READY)
	@$(BIN)/python -m workloads.demo --recipe $(RECIPE) $(if $(DATA),--set data.files.root=$(DATA))

test: $(READY)
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/pytest -m slow

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy platform/coldstart

bench: $(READY)
	$(BIN)/python -m workloads.benchmarks.hot_paths --recipe $(RECIPE)

bench-loss: $(READY)
	$(BIN)/python -m workloads.benchmarks.loss_memory

# 15 minutes and 8 GB of memory; step times are valid only on an otherwise idle machine.
bench-coarse: $(READY)
	$(BIN)/python -m workloads.benchmarks.coarse $(ARGS)

# Preparation against Polars and DuckDB, each in its own environment; the first run downloads them.
bench-data: $(READY)
	$(BIN)/python -m workloads.benchmarks.data $(ARGS)

# Our rankers against other libraries, each in its own environment; the first run downloads them.
bench-ranker: $(READY)
	$(BIN)/python -m workloads.benchmarks.ranker \
		$(if $(DATA),--recipe movielens --set data.files.root=$(DATA),--recipe $(RECIPE)) $(ARGS)

# 8 minutes; the measurements are valid only on an otherwise idle machine.
bench-serve: $(READY)
	$(BIN)/python -m workloads.benchmarks.serving $(ARGS)

clean:
	rm -rf .venv runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	@echo "Setting up .venv (once; a few minutes)"
	@python3 -m venv .venv
	@$(BIN)/pip install -qq --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@
