"""Model and data cards from the manifests and results of a run, and one opt-in command that puts them on a hub.

`python -m dereason_utils.cards --profile cpu --arm dereason --seed 0` writes results/cpu/cards/; with `--push NAME/REPO`
the trained policy goes to that repository with its card (`make push`), without an arm the training sets do.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dereason_utils import disk, manifest, paths, profiles, training_sets, workflow
from dereason_utils.errors import InputError, command, first_line
from dereason_utils.split import ARMS

# hub id and licence of the policies that the profiles name
BASES = {
    "smollm2-135m-instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
    "Qwen/Qwen3-4B-Base": ("Qwen/Qwen3-4B-Base", "apache-2.0"),
}
CONTENTS = {"sft": "problems with the teacher's answers (`response`)", "rl": "problems with the gold answers that a checker compares"}  # fmt: skip
LIMITS = """One training seed unless the table names more; intervals and the comparison of arms are in the repository's
tables, made by the same run. The policy was trained on short problems with answers that a program checks: it is made to
compare training recipes, not to give advice. What it writes is unfiltered."""


def model_card(profile: str, arm: str, seed: int) -> str:
    """The card, with its metadata, of the policy of one arm and seed. Raises InputError for a step that was not run."""
    from huggingface_hub import ModelCardData

    trained = done(profile, *training(arm, seed)[-1])
    model = trained.parameters["model"]
    base, licence = BASES.get(model["name"], (model["name"], None))
    data = ModelCardData(
        base_model=base if "/" in base else None, license=licence, library_name="transformers", language="en",
        pipeline_tag="text-generation", tags=["dereason", arm, *(["grpo"] if ARMS[arm].rl else []), *(["sft"] if ARMS[arm].sft else [])],
    )  # fmt: skip
    tuned = "all parameters" if model["full_finetuning"] else f"LoRA of rank {model['lora_rank']}"
    lines = [
        f"# {profile}: {arm}, seed {seed}", "",
        (f"{base} after {ARMS[arm].about} ({tuned}): one arm of a replication of DeReason (arXiv 2603.11193). "
        "It is not the paper's model."), "",
        "## Training", "", table(settings_rows(profile, arm, seed)), "",
        "## Evaluation", "", evaluation(profile, arm, seed), "",
        "## Limits", "", LIMITS, "",
        "## Made by", "", table(facts(trained)), "",
    ]  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines)


def data_card(profile: str, seed: int) -> str:
    """The card, with its metadata, of one seed's training sets."""
    from huggingface_hub import DatasetCardData

    drawn = done(profile, "02_split", None, seed)
    corpus, folder, arms = drawn.parameters["corpus"], drawn.folder, profiles.load(profile).arms
    data = DatasetCardData(language="en", task_categories=["text-generation"], tags=["dereason", corpus["name"]],
                           pretty_name=f"DeReason replication, training sets of {profile}")  # fmt: skip
    sizes = pd.read_csv(folder / "sizes.csv")
    lines = [
        f"# {profile}: the training sets of every arm, seed {seed}", "",
        (f"Problems of the corpus {corpus['name']}, scored 1-5 for reasoning intensity and split at "
        f"{drawn.parameters['split']['threshold']} (DeReason, arXiv 2603.11193). The licence is that of the corpus."), "",
        "## Files", "", table([(f"`{arm}_{use}.parquet`", CONTENTS[use]) for arm, use in uses(arms)]), "",
        "`phase` says in which phase of the arm's SFT or RL a problem is.", "",
        "## Sizes", "", sizes[sizes["arm"].isin(arms)].to_markdown(index=False, floatfmt=".3g"), "",
        "## The teacher's share of right answers, per score", "", pd.read_csv(folder / "teacher.csv").to_markdown(index=False, floatfmt=".3g"), "",
        "Wrong teacher answers are kept; `response_correct` marks them.", "",
        "## Made by", "", table(facts(drawn)), "",
    ]  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines)


def uses(arms: Sequence[str]) -> list[tuple[str, str]]:
    """(arm, sft or rl) for each training set that the arms have."""
    return [(arm, use) for arm in arms for use in ("sft", "rl") if getattr(ARMS[arm], use)]


def write_training_sets(profile: str, seed: int, folder: Path) -> None:
    """Write ARM_sft.parquet and ARM_rl.parquet, as 03_sft and 04_grpo read them, for the profile's arms.

    Training problems alone: the selections hold no others, and 01_score keeps no benchmark. Raises InputError for a step
    that was not run, or whose files are not here (they are not committed).
    """
    settings = profiles.load(profile)
    scored = manifest.require(profile, "01_score", outputs=["problems.parquet"])
    splits = manifest.require(profile, "02_split", seed=seed, outputs=["sets.parquet"])
    taught = manifest.require(profile, "02_split", seed=settings.seeds[0], outputs=["answers.parquet"])
    problems = {"sft": training_sets.answered(scored, taught), "rl": training_sets.corpus(scored)}
    for arm, use in uses(settings.arms):
        part = training_sets.of_arm(problems[use], splits, arm, use)
        disk.write_table(
            folder / f"{arm}_{use}.parquet", part.drop(columns=["split", "answered"], errors="ignore")
        )


def training(arm: str, seed: int) -> list[workflow.StepKey]:
    """The steps that train the arm's policy, the last of which made it. Raises InputError for arms without training."""
    if arm not in ARMS or not (ARMS[arm].rl or ARMS[arm].sft):
        trained = ", ".join(name for name, one in ARMS.items() if one.rl or one.sft)
        raise InputError(f"{arm!r} has no trained policy: choose one of {trained}.")
    return workflow.trained(arm, seed)


def done(profile: str, stage: str, arm: str | None, seed: int) -> manifest.Manifest:
    """A finished step's manifest; its files need not all be here (models are not committed)."""
    path = paths.manifest_path(profile, stage, arm, seed)
    if not path.is_file():
        make = manifest.command(profile, stage, arm, seed)
        raise InputError(
            f"{manifest.label(stage, arm, seed)} of profile {profile} was not run: `{make}` makes it."
        )
    return manifest.load(path)


def settings_rows(profile: str, arm: str, seed: int) -> list[tuple[str, object]]:
    """(setting, value) of the arm's training stages, from their manifests; a shared SFT's from where it was made."""
    rows = []
    for step in training(arm, seed):
        section = {"03_sft": "sft", "04_grpo": "grpo"}[step.stage]
        values = done(profile, *step).parameters[section]
        rows += [(f"{section}.{name}", value) for name, value in values.items()]
    return rows


def evaluation(profile: str, arm: str, seed: int) -> str:
    path = paths.step_dir(profile, "05_eval", arm, seed) / "summary.csv"
    if not path.is_file():
        return "Not evaluated yet."
    return pd.read_csv(path)[["benchmark", "items", "samples", "pass@1", "parse_failures"]].to_markdown(
        index=False, floatfmt=".3f"
    )


def facts(step: manifest.Manifest) -> list[tuple[str, object]]:
    shown = ("python", "torch", "transformers", "trl", "peft", "unsloth", "vllm")
    return [
        ("commit", step.commit), ("code", step.code[:16]), ("finished", f"{step.finished:%Y-%m-%d %H:%M} UTC"),
        ("hours", round(step.wall_s / 3600, 2)),
        *((name, step.versions[name]) for name in shown if name in step.versions),
    ]  # fmt: skip


def table(rows: list[tuple[str, object]]) -> str:
    return "\n".join(["| | |", "|:--|:--|", *(f"| {name} | {value} |" for name, value in rows)])


def push(files: Path, card: str, repository: str, kind: str) -> str:
    """Put the files and the card into a hub's repository, private where it is made; returns its address.

    kind: model or dataset. Raises InputError when the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder) / "files"
        shutil.copytree(files, staged, ignore=shutil.ignore_patterns("checkpoints*", ".*"))
        disk.write_text(staged / "README.md", card)
        try:
            address = HfApi().create_repo(repository, repo_type=kind, private=True, exist_ok=True)
            HfApi().upload_folder(repo_id=repository, folder_path=staged, repo_type=kind)
        except Exception as error:
            raise InputError(
                f"{repository} was not written ({first_line(error)}): check the network, the name and `hf auth login`."
            ) from error
    return str(address)


@command
def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write a model card (with --arm) or a data card.")
    parser.add_argument("--profile", required=True)
    parser.add_argument("--arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--push", metavar="NAME/REPO", help="also upload: the policy with --arm, else the training sets"
    )
    options = parser.parse_args(words)
    profile, arm, seed = options.profile, options.arm, options.seed
    card = model_card(profile, arm, seed) if arm else data_card(profile, seed)
    name = f"{arm}_seed{seed}.md" if arm else f"data_seed{seed}.md"
    target = paths.results_root() / profile / "cards" / name
    disk.write_text(target, card)
    print(f"{target} is written.")
    if options.push and arm:
        step = manifest.require(profile, *training(arm, seed)[-1])  # its files are what their hashes say
        print(f"{push(step.folder / 'policy', card, options.push, 'model')} is written.")
    elif options.push:
        with tempfile.TemporaryDirectory() as folder:
            write_training_sets(profile, seed, Path(folder))
            print(f"{push(Path(folder), card, options.push, 'dataset')} is written.")


if __name__ == "__main__":
    sys.exit(main())
