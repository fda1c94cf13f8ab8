"""Cards hold the facts of the run that made the model or the data; a push is what a user asks for, and fails clearly."""

import pandas as pd
import pytest
from huggingface_hub import DatasetCard, HfApi, ModelCard

from dereason_utils import cards, disk, manifest, paths, profiles
from dereason_utils.errors import InputError


@pytest.fixture
def run(roots):
    """A finished run of the smallest kind: manifests and the files that cards read."""
    profile = profiles.load("cpu", {"grpo.steps": 17})

    def step(stage, arm, files):
        begun = manifest.begin(stage, "cpu", arm, 0, parameters=profiles.stage_settings(profile, stage))
        for name, content in files.items():
            disk.write_text(begun.folder / name, content)
        manifest.finish(begun, outputs=list(files))

    step(
        "02_split",
        None,
        {
            "sizes.csv": "arm,sft,rl\ndereason,12,34\n",
            "teacher.csv": "score,problems,teacher_accuracy\n1,12,0.875\n",
        },
    )
    step("03_sft", "dereason", {"policy": "sft"})
    step("04_grpo", "dereason", {"policy": "rl"})
    summary = pd.DataFrame(
        {"benchmark": ["hard"], "items": [9], "samples": [2], "pass@1": [0.125], "parse_failures": [0.25]}
    )
    step("05_eval", "dereason", {"summary.csv": summary.to_csv(index=False)})


def test_a_model_card_holds_settings_results_and_versions(run, capsys):
    cards.main(["--profile", "cpu", "--arm", "dereason"])
    card = ModelCard.load(paths.results_root() / "cpu" / "cards" / "dereason_seed0.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct" and card.data.license == "apache-2.0"
    assert "grpo.steps | 17" in card.text and "sft.epochs" in card.text and "0.125" in card.text
    step = manifest.load(paths.manifest_path("cpu", "04_grpo", "dereason", 0))
    assert step.commit in card.text and f"trl | {step.versions['trl']}" in card.text
    assert "is written" in capsys.readouterr().out


def test_a_data_card_holds_sizes_and_the_teachers_accuracy(run):
    cards.main(["--profile", "cpu"])
    card = DatasetCard.load(paths.results_root() / "cpu" / "cards" / "data_seed0.md")
    assert "mini_stem" in card.data.tags and "34" in card.text and "0.875" in card.text


@pytest.mark.fault
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--profile", "cpu", "--arm", "base"], "no trained policy"),
        (["--profile", "cpu", "--arm", "sft_only"], "was not run"),
        (["--profile", "cpu", "--seed", "4"], "was not run"),
    ],
)
def test_what_was_not_run_has_no_card(run, words, says):
    with pytest.raises(SystemExit, match=says):
        cards.main(words)


def test_a_push_sends_the_policy_and_its_card_to_a_private_repository(tmp_path, monkeypatch):
    """The hub is stood in for: what is checked is what would be sent."""
    sent = {}

    def create(self, repo_id, **options):
        sent["repository"] = repo_id, options
        return f"hub/{repo_id}"

    def upload(self, *, repo_id, folder_path, repo_type):
        sent["files"] = {path.name: path.read_text() for path in folder_path.iterdir()}, repo_type

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    files = tmp_path / "policy"
    disk.write_text(files / "weights", "w")
    disk.write_text(files / "README.md", "the library's own")
    assert cards.push(files, "the card", "me/policy", "model") == "hub/me/policy"
    assert sent["repository"] == ("me/policy", {"repo_type": "model", "private": True, "exist_ok": True})
    assert sent["files"] == ({"weights": "w", "README.md": "the card"}, "model")


@pytest.mark.fault
def test_a_hub_that_refuses_is_one_sentence(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match="was not written") as caught:
        cards.push(tmp_path, "card", "me/policy", "model")
    assert "\n" not in str(caught.value)
