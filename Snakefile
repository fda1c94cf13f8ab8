# The six notebooks as a graph of profile x arm x seed. `make reproduce` runs it; by hand, on a cluster for example:
#     snakemake --executor slurm --jobs 20 --set-threads sft=16 --config profile=paper   (and the flags in the Makefile)
# Which steps are to be run is `workflow.to_do`'s answer, from the results folder alone: Snakemake's own records stay on one
# machine, and a study goes on from what another has committed. So inputs are `ancient` (their dates say nothing in a clone)
# and a step to be run has no manifest. No retries: what failed once fails again, and the same command goes on where a run
# was stopped. A dry run (-n) lists them with the reasons. `--config seed=3` runs what one seed needs, without the figures.

import json
import os
import shlex
import sys

from dereason_utils import manifest, paths, profiles, workflow as study
from dereason_utils.errors import InputError

DRY_RUN = bool({"-n", "--dry-run", "--dryrun"} & set(sys.argv))  # while rules are read, Snakemake does not tell
OVERRIDES = {**({"preset": config["preset"]} if "preset" in config else {}), **config.get("overrides", {})}
SEED = config.get("seed")
try:
    PROFILE = profiles.load(config.get("profile", "cpu"), OVERRIDES)
    STEPS = study.steps(PROFILE)
    WANTED = STEPS if SEED is None else [key for key in STEPS if key.seed == int(SEED)]
    if workflow.is_main_process and not DRY_RUN:
        (paths.results_root() / PROFILE.name).mkdir(parents=True, exist_ok=True)
        manifest.hold(paths.results_root() / PROFILE.name)  # Snakemake's own lock would outlive a killed process
    if workflow.is_main_process:
        for key, reason in study.to_do(PROFILE, WANTED).items():
            path = paths.manifest_path(PROFILE.name, *key)
            if DRY_RUN:
                print(f"{manifest.label(*key)}: {reason}")
            elif path.exists():
                print(f"{manifest.label(*key)} is done again: {reason}.", file=sys.stderr)
                path.unlink()
except InputError as error:
    sys.exit(f"Error: {error}")
if DRY_RUN:
    sys.exit(0)  # the list above is all: Snakemake's own would lack what has a manifest that does not hold

RUN = ["exec", sys.executable, "-m", "dereason_utils.run", "--with-parent", "--profile", PROFILE.name]
RUN += [word for key, value in OVERRIDES.items() for word in ("-o", f"{key}={json.dumps(value)}")]
RUN = shlex.join(RUN).replace("{", "{{").replace("}", "}}")
# Snakemake tells each step's libraries their threads, and starts as many steps as there are cores for.
THREADS = max(1, os.cpu_count() // PROFILE.steps_at_once)


def reads(stage):
    def manifests(wildcards):
        names = dict(wildcards.items())
        key = study.StepKey(stage, names.get("arm"), int(names["seed"]) if "seed" in names else None)
        return [ancient(paths.manifest_path(PROFILE.name, *other)) for other in study.earlier(PROFILE, key)]

    return manifests


def writes(stage):
    return paths.manifest_pattern(PROFILE.name, stage)


wildcard_constraints:
    arm="|".join({key.arm for key in STEPS if key.arm}),
    seed="|".join(map(str, PROFILE.seeds)),


rule all:
    # All, not the last alone: Snakemake leaves a missing file be when nothing that reads it is out of date.
    input:
        [paths.manifest_path(PROFILE.name, *key) for key in WANTED],


rule score:
    output:
        writes("01_score"),
    threads: os.cpu_count()  # nothing can run beside it
    shell:
        RUN + " 01_score"


rule split:
    input:
        reads("02_split"),
    output:
        writes("02_split"),
    shell:
        RUN + " 02_split --seed {wildcards.seed}"


rule sft:
    input:
        reads("03_sft"),
    output:
        writes("03_sft"),
    threads: THREADS
    priority: 2  # what others wait for goes first, or the last chain would have the machine to itself
    shell:
        RUN + " 03_sft --arm {wildcards.arm} --seed {wildcards.seed}"


rule grpo:
    input:
        reads("04_grpo"),
    output:
        writes("04_grpo"),
    threads: THREADS
    priority: 1
    shell:
        RUN + " 04_grpo --arm {wildcards.arm} --seed {wildcards.seed}"


rule evaluate:
    input:
        reads("05_eval"),
    output:
        writes("05_eval"),
    threads: THREADS
    shell:
        RUN + " 05_eval --arm {wildcards.arm} --seed {wildcards.seed}"


rule figures:
    input:
        reads("06_figures"),
    output:
        writes("06_figures"),
    shell:
        RUN + " 06_figures"
