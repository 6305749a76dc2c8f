# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.

# uv from the PATH, or one of our own in .tools.
UV := $(shell command -v uv 2>/dev/null || echo .tools/bin/uv)
# The bench groups hold what only `make bench-tensors`, `bench-spikes`, `bench-gym`, `bench-leakage` and
# `bench-images` compare with.
RUN := $(UV) run --all-extras --all-groups --no-group bench --no-group bench-spikes --no-group bench-gym \
	--no-group bench-leakage --no-group bench-images
PYTHON ?= python3

# BLAS threads spin while they wait: on a busy machine two are many times slower than one.
export OPENBLAS_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench bench-tensors bench-spikes bench-gym bench-kill \
	bench-observe bench-ranks bench-contamination bench-leakage bench-images clean

help: ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s:

.tools/bin/uv:
	($(PYTHON) -m venv .tools && .tools/bin/python -m pip install --quiet uv) \
		|| $(PYTHON) -m pip install --quiet --target .tools uv

demo: $(filter .tools/%,$(UV)) ## run the main job on real data and write demo-report.html
	$(UV) run --no-default-groups gyrostat demo

test: $(filter .tools/%,$(UV)) ## run every Rust and Python test, with every extra installed
	cargo test --no-default-features --locked
	$(RUN) pytest

check: $(filter .tools/%,$(UV)) ## formatters, linters, types, layering
	cargo fmt --check
	cargo clippy --no-default-features --all-targets --locked -- -D warnings
	cargo clippy --features python --all-targets --locked -- -D warnings
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) lint-imports
	$(RUN) mypy
	$(RUN) python -m mypy.stubtest gyrostat._core

format: ## let the formatters have their way
	cargo fmt
	$(RUN) ruff check --fix
	$(RUN) ruff format

bench: $(filter .tools/%,$(UV)) ## criterion benches of the kernels
	cargo bench --no-default-features --locked

bench-tensors: $(filter .tools/%,$(UV)) ## tensor statistics beside torch, NumPy, wandb and TensorBoard
	cargo bench --no-default-features --locked --bench tensor
	$(UV) run --extra torch --group bench python benches/tensors.py

bench-spikes: $(filter .tools/%,$(UV)) ## the spike detector beside its peers, written into benches/README.md
	PYTHONPATH=benches $(UV) run --extra torch --group bench-spikes python -m spikes --write

bench-gym: $(filter .tools/%,$(UV)) ## runs with a known fault, guarded by us and by peers, written into benches/README.md
	PYTHONPATH=benches $(UV) run --extra torch --group bench-gym python -m gym --write

bench-leakage: $(filter .tools/%,$(UV)) ## near duplicates beside the peers, written into benches/README.md
	PYTHONPATH=benches $(UV) run --group bench-leakage python -m leakage --write

bench-images: $(filter .tools/%,$(UV)) ## image hashes beside imagehash and pdqhash, written into benches/README.md
	$(UV) run --extra images --group bench-images python benches/images.py --write

bench-ranks: $(filter .tools/%,$(UV)) ## faults on one rank of 2 and 4: do all decide the same?
	PYTHONPATH=tests:benches OMP_NUM_THREADS=1 $(UV) run --extra torch python benches/ranks.py

bench-kill: $(filter .tools/%,$(UV)) ## a small run killed at 100 random moments and resumed
	OMP_NUM_THREADS=1 $(UV) run --extra torch python benches/kill.py

bench-observe: $(filter .tools/%,$(UV)) ## what a guard that only observes costs of a step
	$(UV) run --extra torch python benches/observe.py

bench-contamination: $(filter .tools/%,$(UV)) ## questions hidden in documents: EVALS=bundled-evals of allenai/decon
	PYTHONPATH=benches $(UV) run --extra pyarrow python benches/contamination.py --write --evals "$(EVALS)" \
		--decon "$(UV) run --no-project --python 3.12 --with decontaminate python"

clean: ## remove what was built
	cargo clean
	rm -rf .venv .tools dist
