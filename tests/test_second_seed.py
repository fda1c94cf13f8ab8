"""The real notebooks 02 to 05 for a second seed of an arm that shares its SFT: what is read from whom."""

import pandas as pd
import pytest

from dereason_utils import corpora, disk, judge, manifest, paths, profiles, run, split, workflow

OVERRIDES = {
    "arms": ["base", "sft_all_then_rl_all"], "seeds": [0, 1],
    "corpus.train_size": 24, "corpus.validation_size": 6, "corpus.test_size": 12, "eval.benchmarks": ["mini_stem"],
    "eval.samples": 1, "eval.max_completion": 24, "sft.epochs": 1, "sft.batch_size": 8, "sft.micro_batch_size": 8,
    "grpo.steps": 2, "grpo.save_every": 2, "grpo.prompts_per_step": 4, "grpo.group_size": 4,
    "grpo.micro_batch_size": 8, "grpo.max_completion": 24, "grpo.probe_size": 2, "grpo.evaluate_every": 1,
    "grpo.evaluate_size": 4,
}  # fmt: skip
PROFILE = profiles.load("smoke", OVERRIDES)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The steps of two seeds, of the second alone beyond 02_split; 01_score without its judge."""
    root = tmp_path_factory.mktemp("seeds")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEREASON_RESULTS", str(root / "results"))
        patch.setenv("DEREASON_RUNS", str(root / "runs"))
        step = manifest.begin("01_score", "smoke", parameters=profiles.stage_settings(PROFILE, "01_score"))
        corpus = corpora.load(PROFILE.corpus)
        train = corpus[corpus["split"] == "train"]
        scores = train[["id", "subject", "family", "steps"]].assign(pass_rate=float("nan"))
        scores["score"] = scores["rating"] = judge.reference_scores(train["steps"])
        disk.write_table(step.folder / "problems.parquet", corpus)
        disk.write_table(step.folder / "scores.parquet", scores)
        manifest.finish(step, outputs=["problems.parquet", "scores.parquet"])
        for key in workflow.steps(PROFILE):
            if key.stage not in ("01_score", "06_figures") and (key.seed == 1 or key.arm in (None, "base")):
                run.run_step("smoke", key, OVERRIDES)
        yield root


def test_the_second_seed_learns_from_the_answers_of_the_first(study):
    first, second = (manifest.require("smoke", "02_split", seed=seed) for seed in (0, 1))
    assert "answers.parquet" in first.outputs and "answers.parquet" not in second.outputs
    assert set(first.outputs) - {"answers.parquet"} == set(second.outputs)
    drawn = [pd.read_parquet(made.folder / "sets.parquet") for made in (first, second)]
    same = {name for name in drawn[0] if drawn[0][name].equals(drawn[1][name])}
    assert {"all", "easy", "hard"} <= same and "random_easy_sized" not in same
    # No pass rates were measured, and no problem of so few has score 5.
    lacking = set(split.ARMS) - set(pd.read_csv(first.folder / "sizes.csv")["arm"])
    assert lacking == {"passrate_split", "threshold_4", "rl_score_5", "sft_rl_score_5"}


def test_the_arm_goes_on_from_the_sft_whose_problems_it_shares(study):
    made = manifest.require("smoke", "04_grpo", "sft_all_then_rl_all", 1)
    assert "results/smoke/03_sft/sft_only/seed1/manifest.json" in made.inputs
    assert not (paths.results_root() / "smoke" / "03_sft" / "sft_all_then_rl_all").exists()
    looks = pd.read_parquet(made.folder / "curve.parquet")
    assert looks["step"].unique().tolist() == [0, 1, 2]
    texts, numbers = (
        pd.read_parquet(made.folder / f"{name}.parquet") for name in ("completions", "rollouts")
    )
    assert texts[["id", "step"]].equals(numbers[["id", "step"]]) and "completion" not in numbers


def test_what_was_run_counts_as_done_and_the_first_seed_is_left(study):
    left = list(workflow.to_do(PROFILE, workflow.steps(PROFILE)))
    assert {key.seed for key in left} == {0, None}
    assert [key.stage for key in left] == ["03_sft", "04_grpo", "05_eval", "06_figures"]
