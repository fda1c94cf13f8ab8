"""Profiles: the values, their sources, and what bad values say."""

import shutil
import subprocess

import pandas as pd
import pytest
import yaml

from dereason_utils import corpora, judge, paths, profiles, split
from dereason_utils.errors import InputError


@pytest.mark.parametrize("name", profiles.names())
def test_every_profile_loads_and_tags_every_value(name):
    profile = profiles.load(name)
    table = profiles.settings_table(profile)
    assert {source for _, _, source in table} <= set(profiles.SOURCES)
    fields = profile.model_dump(exclude={"name", "sources"})
    dotted = {
        f"{a}.{b}" if isinstance(v, dict) else a
        for a, v in fields.items()
        for b in (v if isinstance(v, dict) else [0])
    }
    assert dotted == set(profile.sources)


def reported():
    """The settings that the paper and General-Reasoner give: setting -> (value, source)."""
    rows = pd.read_csv(paths.committed() / "paper" / "settings.csv", dtype=str)
    values = {row.setting: (yaml.safe_load(row.value), row.source) for row in rows.itertuples()}
    return {name: (tuple(v) if isinstance(v, list) else v, source) for name, (v, source) in values.items()}


VARIANTS = [(name, None) for name in profiles.names()] + [
    (name, preset) for name in profiles.names() for preset in profiles.presets(name)
]


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_a_value_that_is_tagged_as_the_papers_is_the_papers(name, preset):
    known = reported()
    tagged = [
        row for row in profiles.settings_table(profiles.load(name, {"preset": preset})) if row[2] != "ours"
    ]
    assert tagged
    for setting, value, source in tagged:
        assert known[setting] == (value, source), setting


def test_the_paper_profile_keeps_all_that_the_paper_gives():
    sources = profiles.load("paper").sources
    assert [
        name for name, (_, source) in reported().items() if source == "paper" and sources[name] != "paper"
    ] == []


def test_what_is_only_inferred_is_not_the_papers():
    """Section 3.1 names no adapter, and does not say that all parameters are trained either."""
    paper = profiles.load("paper")
    assert paper.model.full_finetuning and paper.sources["model.full_finetuning"] == "ours"


def test_override_replaces_one_value_and_is_ours():
    profile = profiles.load("cpu", {"split.threshold": 2})
    assert profile.split.threshold == 2
    assert profile.sources["split.threshold"] == "ours"
    assert profiles.load("cpu").split.threshold == 3


def test_override_replaces_a_section_as_a_whole():
    profile = profiles.load(
        "paper", {"teacher": dict(profiles.load("cpu").teacher), "corpus": dict(profiles.load("cpu").corpus)}
    )
    assert profile.teacher == profiles.load("cpu").teacher and profile.corpus.name == "mini_stem"
    assert profile.sources["teacher.slip"] == "ours" and "teacher.name" not in profile.sources


def test_a_profile_that_is_like_another_differs_in_what_it_gives_alone(tmp_path, monkeypatch):
    for path in profiles.FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    (tmp_path / "more.yaml").write_text("like: cpu\nseeds: !ours [0, 1]\nsplit:\n  threshold: !ours 2\n")
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    plain, more = profiles.load("cpu"), profiles.load("more")
    changed = {"seeds": (0, 1), "split": plain.split.model_copy(update={"threshold": 2}), "name": "more"}
    sources = {**plain.sources, "split.threshold": "ours"}
    assert more == plain.model_copy(update={**changed, "sources": sources})
    (tmp_path / "odd.yaml").write_text("like: nothing\n")
    with pytest.raises(InputError, match="Unknown profile 'nothing'"):
        profiles.load("odd")


def test_what_a_profile_is_for_is_the_first_sentence_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text("# A study of\n# mine. It has more.\n\n# Not this.\nlike: cpu\n")
    assert profiles.about("mine") == "A study of mine."


def test_a_profile_like_that_of_a_gpu_has_its_presets_and_its_environment(tmp_path, monkeypatch):
    folder = tmp_path / "dereason_utils" / "profiles"
    shutil.copytree(profiles.FOLDER, folder)
    monkeypatch.setattr(profiles, "FOLDER", folder)
    (folder / "mine.yaml").write_text(
        "like: single_gpu\narms: !ours [base, dereason]\npresets:\n  48gb:\n    sft.epochs: !ours 2\n"
    )
    assert profiles.for_gpus("mine") and not profiles.for_gpus("nano_reach")
    assert profiles.load("mine", {"preset": "80gb"}).grpo.max_completion == 8192
    assert profiles.presets("mine")["48gb"] == profiles.presets("single_gpu")["48gb"] | {
        "sft.epochs": (2, "ours")
    }
    for file in ("Makefile", "requirements-cpu.lock", "requirements-gpu.lock"):
        shutil.copy(paths.REPO / file, tmp_path)
    shown = {
        name: subprocess.run(
            ["make", "--dry-run", "doctor", f"PROFILE={name}"],
            cwd=tmp_path, capture_output=True, text=True, check=True,
        ).stdout
        for name in ("mine", "nano_reach")
    }  # fmt: skip
    assert ".venv-gpu/bin/python" in shown["mine"] and ".venv/bin/python" in shown["nano_reach"]


def test_another_address_of_the_same_server_redoes_nothing():
    one, other, here = (
        profiles.stage_settings(profiles.load("paper", {"judge.via": via}), "01_score")
        for via in ("http://one:8000/v1", "https://other/v1", "vllm")
    )
    assert one == other != here


def test_a_preset_changes_its_values_and_no_other_and_overrides_come_after_it():
    plain = profiles.load("single_gpu")
    assert profiles.load("single_gpu", {"preset": "24gb"}) == plain
    for preset, values in profiles.presets("single_gpu").items():
        table = {
            k: (v, s) for k, v, s in profiles.settings_table(profiles.load("single_gpu", {"preset": preset}))
        }
        changed = {k: table[k] for k, v, s in profiles.settings_table(plain) if table[k] != (v, s)}
        assert changed.items() <= values.items()
    both = profiles.load("single_gpu", {"sft.micro_batch_size": 1, "preset": "80gb"})
    assert both.sft.micro_batch_size == 1 and both.grpo.max_completion == 8192


@pytest.mark.parametrize("preset", profiles.presets("single_gpu"))
def test_all_cards_do_the_same_experiment_but_for_lengths(preset):
    """What decides the update (batches, rates, steps) does not depend on the card, so that runs compare."""
    plain, other = profiles.load("single_gpu"), profiles.load("single_gpu", {"preset": preset})
    memory = {"micro_batch_size", "max_completion"}
    for section in ("sft", "grpo"):
        assert getattr(plain, section).model_dump(exclude=memory) == getattr(other, section).model_dump(
            exclude=memory
        )


@pytest.mark.fault
@pytest.mark.parametrize(
    ("name", "overrides", "says"),
    [
        ("single_gpu", {"preset": "12gb"}, "Unknown preset '12gb'"),
        ("cpu", {"preset": "24gb"}, "Unknown preset '24gb'"),
        ("cpu", {"hardware.processes": 2}, "full_finetuning"),
        ("paper", {"hardware.processes": 3}, "not a multiple"),
        ("paper", {"hardware.sampler": "own", "hardware.server": "http://a:1"}, "sampler vllm"),
        ("cpu", {"grpo.loss": "dr_grpo"}, "scale_rewards"),
        ("cpus", {}, "Unknown profile 'cpus'"),
        ("cpu", {"grpo.step": 3}, "Unknown setting 'grpo.step'"),
        ("cpu", {"grpo.steps": 0}, "grpo.steps"),
        ("cpu", {"grpo.steps": "many"}, "grpo.steps"),
        ("cpu", {"teacher.slip": 1.5}, "teacher.slip"),
        ("cpu", {"split.threshold": 5}, "split.threshold"),
        ("cpu", {"grpo.micro_batch_size": 7}, "not a multiple"),
        ("cpu", {"corpus.min_steps": 9, "corpus.max_steps": 2}, "min_steps is above max_steps"),
        ("cpu", {"eval.temperature": 0.0}, "greedy"),
        (
            "cpu",
            {"corpus.name": "webscale_rl"},
            "corpus.path: Field required.*given as a whole: -o 'corpus={...}'",
        ),
        ("paper", {"judge.via": "https://me:secret@host/v1"}, "judge.via: String should match"),
        ("paper", {"judge.via": "ftp://host"}, "judge.via: String should match"),
        ("paper", {"judge.split_by": "reference"}, "judge.split_by: reference needs the corpus mini_stem"),
        (
            "paper",
            {"teacher": {"via": "reference", "slip": 0.1}},
            "teacher.via: reference needs the corpus mini_stem",
        ),
    ],
)
def test_bad_values_say_what_and_where(name, overrides, says):
    with pytest.raises(InputError, match=says) as caught:
        profiles.load(name, overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.fault
def test_value_without_a_source_tag_is_refused(tmp_path, monkeypatch):
    text = (profiles.FOLDER / "cpu.yaml").read_text().replace("threshold: !paper 3", "threshold: 3")
    (tmp_path / "odd.yaml").write_text(text)
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    with pytest.raises(InputError, match="split.threshold has no source tag"):
        profiles.load("odd")


def test_evaluation_settings_do_not_touch_training_stages():
    plain, changed = profiles.load("cpu"), profiles.load("cpu", {"eval.samples": 9})
    for stage in ("01_score", "02_split", "03_sft", "04_grpo"):
        assert profiles.stage_settings(plain, stage) == profiles.stage_settings(changed, stage)
    assert profiles.stage_settings(plain, "05_eval") != profiles.stage_settings(changed, "05_eval")


@pytest.mark.parametrize(
    "name", ["smoke", "cpu", "study", "nano", "nano_reach", "nano_skewed", "nano_sweeps"]
)
def test_the_corpus_has_problems_for_every_arm(name):
    profile = profiles.load(name)
    problems = corpora.load(profile.corpus)
    pool = problems[problems["split"] == "train"].assign(response_correct=True, pass_rate=0.5)
    pool["score"] = judge.reference_scores(pool["steps"])
    needed = {selection for arm in profile.arms for selection in split.names_of(arm)}
    drawn = split.selections(pool, profile.split.threshold, 0, needed)
    for arm in profile.arms:
        for use in ("sft", "rl"):
            part = split.arm_set(pool, drawn, arm, use)
            assert part is None or len(part)
