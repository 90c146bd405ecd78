PYTHON ?= python3
CONSTRAINTS ?= -c constraints.txt
WORKERS ?= 2
BIN := .venv/bin
# A group's curves with seed 1 of the tasks of eight_tasks
OF_EIGHT = $(filter-out %/pendulum-swingup_seed1.csv %/cheetah-run_seed1.csv,$(wildcard results/$(1)/*_seed1.csv))
ABLATIONS := no_ier no_pathcons no_te_rep no_te_dyn no_te_rew no_te_vp no_te_dyn_rew_vp

# The oracle (mctx, which brings JAX) is installed only where it is asked for.
ifneq ($(EZM_ORACLE)$(CI),)
EXTRAS := dev,oracle
STAMP := .venv/.installed-oracle
else
EXTRAS := dev
STAMP := .venv/.installed
endif

.DEFAULT_GOAL := help
.PHONY: help install test lint format demo bench results docs wheel clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Make the virtual environment .venv and install the package into it (EZM_ORACLE=1: mctx too)

# torch comes first and alone: nothing that follows can make pip fetch another one.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(CONSTRAINTS) torch
	$(BIN)/python -m pip install $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@
	@echo "Installed. Next, to see an agent act and to train one: source .venv/bin/activate && ezm play walker; make demo"

lint: install  ## ruff, declared against imported packages, the import contracts, the type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint  ## lint and the tests that are not marked slow
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(PYTEST_ARGS)

format: install  ## Rewrite the sources as ruff formats them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: install  ## Train one agent on four cartpole tasks, about 10 minutes on 2 CPU cores
	$(BIN)/ezm train experiment=demo

bench: install  ## The tables of docs/speed.md without a checkpoint, assets or TD-MPC2 (EZM_ORACLE=1, BENCH_ARGS=clock=cpu)
	$(BIN)/python -m benchmarks search size=hard against=mctx $(BENCH_ARGS)
	$(BIN)/python -m benchmarks search size=small against=mctx $(BENCH_ARGS)
	$(BIN)/python -m benchmarks search size=hard batch=1,9,64 against=plain $(BENCH_ARGS)
	$(BIN)/python -m benchmarks update size=hard $(BENCH_ARGS)
	$(BIN)/python -m benchmarks reanalyze size=hard $(BENCH_ARGS)
	$(BIN)/python -m benchmarks replay capacity=100000,1000000 against=index_select repeats=25 $(BENCH_ARGS)
	$(BIN)/python -m benchmarks env against=mj_step repeats=15 $(BENCH_ARGS)
	$(BIN)/python -m benchmarks env task=dmc/cartpole-swingup against=mj_step repeats=15 $(BENCH_ARGS)
	$(BIN)/python -m benchmarks env task=hb/h1-walk against=mj_step $(BENCH_ARGS)
	$(BIN)/python -m benchmarks collect $(BENCH_ARGS)
	$(BIN)/python -m benchmarks train size=demo $(BENCH_ARGS)

results: install  ## results/report and the tables of docs/results.md, from the committed curves
	$(BIN)/ezm report dmc_cpu=results/dmc_easy cartpole=results/single demo=results/demo \
	  two_tasks=results/two_tasks one_task=results/one_task one_task_quarter=results/one_task_quarter \
	  ten_tasks=results/ten_tasks ten_alone=results/ten_alone brc=results/brc \
	  h1_cpu=results/h1_cpu h1_alone=results/h1_alone \
	  against=all out=results/report page=docs/results.md
	$(BIN)/ezm report ezm=results/gradients/ezm brc=results/gradients/brc out=build/gradients
	cp build/gradients/gradients_*.png results/gradients/
	$(BIN)/ezm report sixteen=results/newt_cpu eight=results/newt_eight four=results/newt_four alone=results/newt_alone out=build/newt
	cp build/newt/scores_mean.png results/newt_cpu/
	$(BIN)/ezm report four=results/brc_demo two=results/brc_two_tasks one=results/brc_one_task quarter=results/brc_one_task_quarter out=build/brc
	cp build/brc/last_scores.png results/brc_demo/
	$(BIN)/ezm report demo=results/demo $(foreach name,$(ABLATIONS),$(foreach curve,$(wildcard results/ablation/$(name)_seed*.csv),$(name)=$(curve))) out=build/ablation
	cp build/ablation/last_scores.png results/ablation/
	$(BIN)/ezm report $(foreach curve,$(call OF_EIGHT,dmc_easy),one=$(curve)) eight=results/eight_tasks \
	  $(foreach curve,$(call OF_EIGHT,ten_alone),one_tenth=$(curve)) brc_eight=results/brc_eight_tasks out=build/eight
	cp build/eight/last_scores.png results/eight_tasks/

docs: install  ## The documentation site in build/site
	$(BIN)/python -m pip install $(CONSTRAINTS) -e '.[docs]'
	$(BIN)/mkdocs build --strict

wheel: install  ## The wheel alone in a new environment, outside the repository: trains and evaluates (minutes)
	.ci/wheel

clean:  ## Remove build products and caches; keeps .venv and runs/
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
