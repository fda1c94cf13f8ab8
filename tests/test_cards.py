"""Cards hold the facts of the run that made the model or the data; a push is what a user asks for, and fails clearly."""

import io
import re

import pandas as pd
import pytest
from huggingface_hub import DatasetCard, HfApi, ModelCard

from dereason_utils import cards, disk, manifest, paths, profiles, split
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


def test_the_card_of_an_arm_with_a_shared_sft_finds_it(run):
    """sft_rl_score_4 goes on from dereason's SFT, which was trained once."""
    profile = profiles.load("cpu")
    begun = manifest.begin(
        "04_grpo", "cpu", "sft_rl_score_4", 0, parameters=profiles.stage_settings(profile, "04_grpo")
    )
    manifest.finish(begun)
    text = cards.model_card("cpu", "sft_rl_score_4", 0)
    assert "sft.epochs" in text and "grpo.steps" in text


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
def test_what_was_not_run_has_no_card(run, words, says, capsys):
    assert cards.main(words) == 2 and says in capsys.readouterr().err


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


@pytest.fixture
def training_sets(roots):
    """01 and 02 of four training problems, one without a teacher's answer, and a test problem."""
    corpus = pd.DataFrame(
        {
            "id": ["a", "b", "c", "d", "t"],
            "question": ["A?", "B?", "C?", "D?", "secret?"],
            "answer": ["1", "2", "3", "4", "5"],
            "answer_type": "number",
            "subject": "mathematics",
            "family": "f",
            "steps": 1,
            "split": [*["train"] * 4, "test"],
        }
    )
    train = corpus[corpus["split"] == "train"]
    answers = train[["id"]].assign(
        response=["1", "2", "wrong", ""],
        response_correct=[True, True, False, False],
        answered=[True, True, True, False],
    )
    scores = train[["id", "subject"]].assign(score=[1, 3, 2, 5], response_correct=answers["response_correct"])
    settings = profiles.load("cpu")

    def step(stage, seed, tables):
        begun = manifest.begin(stage, "cpu", None, seed, parameters=profiles.stage_settings(settings, stage))
        for name, rows in tables.items():
            disk.write_table(begun.folder / name, rows)
        manifest.finish(begun, outputs=list(tables))

    step("01_score", None, {"problems.parquet": corpus})
    sizes = pd.DataFrame({"arm": ["dereason", "threshold_2"], "sft": [3, 2], "rl": [1, 2]})
    teachers = pd.DataFrame({"score": [1], "problems": [4], "teacher_accuracy": [0.5]})
    made = {"sets.parquet": split.selections(scores, 3, 0), "answers.parquet": answers}
    step("02_split", 0, {**made, "sizes.csv": sizes, "teacher.csv": teachers})


def test_a_push_without_an_arm_sends_the_tables_that_the_card_names(training_sets, monkeypatch, capsys):
    sent = {}

    def upload(self, *, repo_id, folder_path, repo_type):
        sent.update({path.name: path.read_bytes() for path in folder_path.iterdir()})

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **options: repo_id)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    cards.main(["--profile", "cpu", "--push", "me/data"])
    card = sent.pop("README.md").decode()
    assert (
        set(sent)
        == set(re.findall(r"`(\w+\.parquet)`", card))
        >= {"dereason_sft.parquet", "rl_only_rl.parquet"}
    )
    assert "threshold_2" not in card  # not an arm of this profile
    tables = {name: pd.read_parquet(io.BytesIO(content)) for name, content in sent.items()}
    sft, rl = tables["dereason_sft.parquet"], tables["dereason_rl.parquet"]
    assert sft[["id", "response"]].to_numpy().tolist() == [["a", "1"], ["b", "2"], ["c", "wrong"]]
    assert rl[["id", "question", "answer", "phase"]].to_numpy().tolist() == [["d", "D?", "4", 1]]
    assert "t" not in {each for table in tables.values() for each in table["id"]}


@pytest.mark.fault
def test_training_sets_that_are_not_here_are_not_pushed(training_sets, capsys):
    (paths.step_dir("cpu", "01_score") / "problems.parquet").unlink()  # as in a clone
    assert cards.main(["--profile", "cpu", "--push", "me/data"]) == 2
    assert re.search(r"problems.parquet is missing.*01_score", capsys.readouterr().err)


@pytest.mark.fault
def test_a_hub_that_refuses_is_one_sentence(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match="was not written") as caught:
        cards.push(tmp_path, "card", "me/policy", "model")
    assert "\n" not in str(caught.value)
