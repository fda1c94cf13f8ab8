# The six notebooks as a graph of profile x arm x seed. `make reproduce` runs it; by hand, on a cluster for example:
#     snakemake --executor slurm --jobs 20 --set-threads sft=16 --config profile=paper   (and the flags in the Makefile)
# A step is redone when the settings, the code (dereason_utils/sources.py says which) or the inputs of its result have
# changed in content. No retries: what failed once fails again, and the same command goes on where a run was stopped.

import json
import os
import shlex
import sys

from dereason_utils import manifest, paths, profiles, sources, workflow as study
from dereason_utils.errors import InputError

DRY_RUN = bool({"-n", "--dry-run", "--dryrun"} & set(sys.argv))  # while rules are read, Snakemake does not tell
OVERRIDES = {**({"preset": config["preset"]} if "preset" in config else {}), **config.get("overrides", {})}
try:
    PROFILE = profiles.load(config.get("profile", "cpu"), OVERRIDES)
    if workflow.is_main_process and not DRY_RUN:
        (paths.results_root() / PROFILE.name).mkdir(parents=True, exist_ok=True)
        manifest.hold(paths.results_root() / PROFILE.name)  # Snakemake's own lock would outlive a killed process
        for path in study.made_otherwise(PROFILE):
            print(f"{path} was made with other settings or code, so its step is done again.", file=sys.stderr)
            path.unlink()
except InputError as error:
    sys.exit(f"Error: {error}")

RUN = ["exec", sys.executable, "-m", "dereason_utils.run", "--with-parent", "--profile", PROFILE.name]
RUN += [word for key, value in OVERRIDES.items() for word in ("-o", f"{key}={json.dumps(value)}")]
RUN = shlex.join(RUN).replace("{", "{{").replace("}", "}}")
ALL_CORES = os.cpu_count()  # training uses every core, so that on one machine one step runs at a time


def reads(stage):
    def manifests(wildcards):
        names = dict(wildcards.items())
        key = study.StepKey(stage, names.get("arm"), int(names["seed"]) if "seed" in names else None)
        return [paths.manifest_path(PROFILE.name, *earlier) for earlier in study.earlier(PROFILE, key)]

    return manifests


def writes(stage):
    return paths.manifest_pattern(PROFILE.name, stage)


# Not in git, and the target of a rule: so a fresh clone with committed results runs everything.
PROBLEMS = paths.step_dir(PROFILE.name, "01_score") / "problems.parquet"


def settings(stage):
    return json.dumps(profiles.stage_settings(PROFILE, stage), sort_keys=True)


wildcard_constraints:
    arm="|".join(PROFILE.arms),
    seed="|".join(map(str, PROFILE.seeds)),


rule all:
    # All, not the last alone: Snakemake leaves a missing file be when nothing that reads it is out of date.
    input:
        [paths.manifest_path(PROFILE.name, *key) for key in study.steps(PROFILE)],
        PROBLEMS,


rule score:
    output:
        writes("01_score"),
        PROBLEMS,
    params:
        settings=settings("01_score"),
        code=sources.code_hash("01_score"),
    threads: ALL_CORES
    shell:
        RUN + " 01_score"


rule split:
    input:
        reads("02_split"),
    output:
        writes("02_split"),
    params:
        settings=settings("02_split"),
        code=sources.code_hash("02_split"),
    shell:
        RUN + " 02_split --seed {wildcards.seed}"


rule sft:
    input:
        reads("03_sft"),
    output:
        writes("03_sft"),
    params:
        settings=settings("03_sft"),
        code=sources.code_hash("03_sft"),
    threads: ALL_CORES
    shell:
        RUN + " 03_sft --arm {wildcards.arm} --seed {wildcards.seed}"


rule grpo:
    input:
        reads("04_grpo"),
    output:
        writes("04_grpo"),
    params:
        settings=settings("04_grpo"),
        code=sources.code_hash("04_grpo"),
    threads: ALL_CORES
    shell:
        RUN + " 04_grpo --arm {wildcards.arm} --seed {wildcards.seed}"


rule evaluate:
    input:
        reads("05_eval"),
    output:
        writes("05_eval"),
    params:
        settings=settings("05_eval"),
        code=sources.code_hash("05_eval"),
    threads: ALL_CORES
    shell:
        RUN + " 05_eval --arm {wildcards.arm} --seed {wildcards.seed}"


rule figures:
    input:
        reads("06_figures"),
    output:
        writes("06_figures"),
    params:
        settings=settings("06_figures"),
        code=sources.code_hash("06_figures"),
    shell:
        RUN + " 06_figures"
