"""A run that was stopped and goes on ends with the bytes of one that was not; so does a run that is repeated.

With the `smoke` policy, set up as in the `cpu` profile: bfloat16 weights, a float32 adapter.
"""

import shutil

import pandas as pd
import pytest

from dereason_utils import benchmarks, corpora, evaluate, grpo, models, profiles, rl_curve, sft, training

PROFILE = profiles.load(
    "smoke",
    {
        "model.bfloat16": True,
        "corpus.train_size": 16, "corpus.validation_size": 4, "corpus.test_size": 12, "corpus.max_steps": 2,
        # Three epochs of two updates and a checkpoint in the middle of the second epoch.
        "sft.epochs": 3, "sft.batch_size": 8, "sft.micro_batch_size": 4,
        # Two epochs of four steps and checkpoints after 2, 4, 6 and 7 steps.
        "grpo.steps": 7, "grpo.save_every": 2, "grpo.prompts_per_step": 4, "grpo.group_size": 8,
        "grpo.micro_batch_size": 8, "grpo.max_completion": 96,
        "eval.batch_size": 8, "eval.max_completion": 32,
    },
)  # fmt: skip
CORPUS = corpora.teacher_answers(corpora.load(PROFILE.corpus), 0.0, 0)
LAST = {"sft": 6, "grpo": 7}
STYLE = PROFILE.model.prompt_style


class Stopped(Exception):
    pass


def load(train=True):
    return models.load_policy(models.locate(PROFILE.model), PROFILE.model, 0, train=train)


def run_sft(folder):
    """What 03_sft does from the loaded policy to the saved one."""
    model, tokenizer = load()
    rows = {split: part for split, part in CORPUS.groupby("split")}
    examples, validation = (
        sft.tokenise(rows[split], tokenizer, PROFILE.model)[0] for split in ("train", "validation")
    )
    curve = sft.train(model, tokenizer, examples, validation, PROFILE.sft, folder / "checkpoints", 0)
    models.save_policy(model, tokenizer, folder / "policy")
    training.write_curve(folder, curve)


def run_grpo(folder):
    """What 04_grpo does from the loaded policy to the saved one."""
    model, tokenizer = load()
    problems = CORPUS[CORPUS["split"] == "train"]
    curve = grpo.train(model, tokenizer, problems, STYLE, PROFILE.grpo, folder / "checkpoints", 0)
    rollouts = grpo.collect_rollouts(folder / "checkpoints", PROFILE.grpo.steps)
    models.save_policy(model, tokenizer, folder / "policy")
    training.write_curve(folder, curve)
    rollouts.to_parquet(folder / "rollouts.parquet")


RUN = {"sft": run_sft, "grpo": run_grpo}


def made(folder):
    """Bytes of all that a run left, without its checkpoints and its times."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and "checkpoints" not in p.parts]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name != "timing.csv"}


def differing(one, other):
    """Names of files that are not in both or not the same; a short list where the bytes would fill pages."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def stop_at(step):
    """In place of `training.stop_on_nan`, which also looks at each step's log: an error after this step's."""
    from transformers import TrainerCallback

    class StopAt(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            if state.global_step == step and "loss" in logs:
                raise Stopped

    return StopAt


@pytest.fixture(scope="module", params=["sft", "grpo"])
def whole(request, tmp_path_factory):
    """(stage, folder) of a run that nothing interrupted; its checkpoints are still there."""
    folder = tmp_path_factory.mktemp(request.param)
    RUN[request.param](folder)
    return request.param, folder


def test_the_run_has_something_to_compare(whole):
    stage, folder = whole
    curve = pd.read_csv(folder / "steps.csv")
    assert curve["step"].tolist() == list(range(1, LAST[stage] + 1))
    assert curve["grad_norm"].gt(0).sum() >= 3
    assert stage == "sft" or curve["reward"].nunique() >= 3
    assert not [name for name in curve.columns if name.endswith("_s")]
    assert pd.read_csv(folder / "timing.csv").notna().all(axis=None)


def test_the_same_seed_gives_the_same_bytes_twice(whole, tmp_path):
    stage, folder = whole
    RUN[stage](tmp_path)
    assert differing(made(tmp_path), made(folder)) == []


def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(whole, tmp_path, monkeypatch):
    """Step by step: losses, rewards, gradient norms, rollouts, and the weights in the end."""
    stage, folder = whole
    checkpoints = tmp_path / "checkpoints"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr({"sft": sft, "grpo": grpo}[stage], "stop_on_nan", stop_at(5))
        RUN[stage](tmp_path)
    newest = {"sft": checkpoints / "checkpoint-3", "grpo": checkpoints / "checkpoint-4"}[stage]
    assert training.last_whole_checkpoint(checkpoints) == str(newest)
    # As if the next checkpoint had been cut off in the middle: no mark, and half of a file.
    half = shutil.copytree(newest, checkpoints / "checkpoint-5")
    (half / training._WHOLE).unlink()
    weights = half / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    RUN[stage](tmp_path)
    own, reference = pd.read_csv(tmp_path / "steps.csv"), pd.read_csv(folder / "steps.csv")
    pd.testing.assert_frame_equal(own, reference, check_exact=True)
    assert differing(made(tmp_path), made(folder)) == []
    assert len(pd.read_csv(tmp_path / "timing.csv")) == len(own)


def test_a_run_that_was_stopped_after_its_last_step_gains_no_step(whole, tmp_path):
    stage, folder = whole
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    newest = str(tmp_path / "checkpoints" / f"checkpoint-{LAST[stage]}")
    assert training.last_whole_checkpoint(tmp_path / "checkpoints") == newest
    RUN[stage](tmp_path)
    assert differing(made(tmp_path), made(folder)) == []


# ---- two phases ----

SHORT = {"sft": PROFILE.sft.model_copy(update={"epochs": 2, "batch_size": 4}),
         "grpo": PROFILE.grpo.model_copy(update={"steps": 6, "save_every": 2, "evaluate_every": 2, "evaluate_size": 4})}  # fmt: skip


def run_two_phases(stage, folder, looks=True):
    """What 03_sft does for easy and then hard problems, 04_grpo for RL on easy and then on hard ones, looking along it."""
    model, tokenizer = load()
    train = CORPUS[CORPUS["split"] == "train"].sort_values("steps", kind="stable")
    curves, rollouts, looked = [], [], []
    look = rl_curve.measure(
        model, tokenizer, rl_curve.problems(CORPUS, SHORT["grpo"], 0), STYLE, SHORT["grpo"], 0
    )
    for phase, part in enumerate((train[:8], train[8:]), 1):
        own = folder / "checkpoints" / f"phase{phase}"
        if stage == "sft":
            examples = sft.tokenise(part, tokenizer, PROFILE.model)[0]
            curves.append(sft.train(model, tokenizer, examples, [], SHORT["sft"], own, 0))
        else:
            tuning = SHORT["grpo"].model_copy(update={"steps": training.share_out(6, 2)[phase - 1]})
            along = [rl_curve.every_so_often(look, own, tuning)] if looks else []
            curves.append(grpo.train(model, tokenizer, part, STYLE, tuning, own, 0, callbacks=along))
            rollouts.append(grpo.collect_rollouts(own, tuning.steps))
            looked += [rl_curve.collect(own)] if looks else []
    models.save_policy(model, tokenizer, folder / "policy")
    training.write_curve(folder, training.one_after_the_other(curves))
    if rollouts:
        training.one_after_the_other(rollouts).to_parquet(folder / "rollouts.parquet")
    if looked:
        training.one_after_the_other(looked).to_parquet(folder / "curve.parquet")


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_training_that_stopped_in_its_second_phase_ends_as_one_that_was_not(stage, tmp_path, monkeypatch):
    run_two_phases(stage, tmp_path / "whole")
    curve = pd.read_csv(tmp_path / "whole" / "steps.csv")
    second = curve[curve["phase"] == 2]
    assert curve["phase"].value_counts().to_dict() == {1: len(curve) / 2, 2: len(curve) / 2}
    assert curve["grad_norm"].gt(0).groupby(curve["phase"]).any().all(), "both phases have something to learn"

    class InPhaseTwo(stop_at(len(second))):
        def on_log(self, args, *rest, **more):
            if args.output_dir.endswith("phase2"):
                super().on_log(args, *rest, **more)

    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr({"sft": sft, "grpo": grpo}[stage], "stop_on_nan", InPhaseTwo)
        run_two_phases(stage, folder)
    begun = training.last_whole_checkpoint(folder / "checkpoints" / "phase2")
    assert begun is not None and not begun.endswith(f"-{len(second)}")
    times = pd.read_csv(tmp_path / "whole" / "timing.csv")

    run_two_phases(stage, folder)
    assert differing(made(folder), made(tmp_path / "whole")) == []
    assert len(pd.read_csv(folder / "timing.csv")) == len(times)


def test_looking_along_rl_changes_nothing_of_it(tmp_path):
    for looks in (True, False):
        run_two_phases("grpo", tmp_path / str(looks), looks)
    assert differing(made(tmp_path / "True"), made(tmp_path / "False")) == ["curve.parquet"]
    rows = pd.read_parquet(tmp_path / "True" / "curve.parquet")
    assert rows.groupby("phase")["step"].unique().map(list).to_dict() == {1: [0, 2, 3], 2: [3, 5, 6]}
    assert rows.groupby(["phase", "step"])["id"].nunique().eq(4).all()


# ---- evaluation ----


@pytest.fixture(scope="module")
def policy():
    return load(train=False)


def run_eval(policy, folder, settings=PROFILE.eval):
    """What 05_eval does from the loaded policy to its tables."""
    test = corpora.problems(CORPUS[CORPUS["split"] == "test"])
    items = benchmarks.build(test, [], 2, settings.samples, settings.temperature)
    rows = evaluate.evaluate(*policy, items, STYLE, settings, folder / "checkpoints", "")
    rows.to_parquet(folder / "items.parquet")
    evaluate.summarise(rows).to_csv(folder / "summary.csv")
    return rows


@pytest.fixture(scope="module")
def evaluated(policy, tmp_path_factory):
    """The folder of an evaluation that nothing interrupted: 12 items in batches of 4 with 2 samples each."""
    folder = tmp_path_factory.mktemp("eval")
    rows = run_eval(policy, folder)
    assert rows["completion"].nunique() > 12
    return folder


def batches(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.glob("checkpoints/batch-*"))}


def test_an_evaluation_gives_the_same_bytes_twice(policy, evaluated, tmp_path):
    run_eval(policy, tmp_path)
    assert differing(made(tmp_path), made(evaluated)) == []


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_an_evaluation_goes_on_after_the_batches_that_it_had_sampled(policy, evaluated, tmp_path, kept):
    shutil.copytree(evaluated / "checkpoints", tmp_path / "checkpoints")
    for path in list(batches(tmp_path))[kept:]:
        path.unlink()
    (tmp_path / "checkpoints" / ".tmp-1-batch-00002.parquet").write_bytes(b"half a fi")
    before = batches(tmp_path)
    run_eval(policy, tmp_path)
    after = batches(tmp_path)
    assert len(before) == kept and len(after) == 3
    assert before.items() <= after.items()
    assert differing(made(tmp_path), made(evaluated)) == []


def test_another_evaluation_starts_afresh(policy, evaluated, tmp_path):
    shutil.copytree(evaluated / "checkpoints", tmp_path / "checkpoints")
    run_eval(policy, tmp_path, PROFILE.eval.model_copy(update={"seed": 8}))
    assert "items.parquet" in differing(made(tmp_path), made(evaluated))
