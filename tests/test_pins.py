"""Commits of hub ids: looked up at a real server that answers as the hub does, and filled into profiles."""

import json

import chat_server
import huggingface_hub.constants
import pytest

from dereason_utils import hub_benchmarks, pins, profiles
from dereason_utils.errors import InputError

GATED = "Idavidrein/gpqa"


def commit_of(path):
    return f"{sum(path.encode()):040x}"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the profiles' folder to write pins.json into."""
    for path in profiles.FOLDER.glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def hub(monkeypatch):
    """The paths asked for at a stand-in hub, which knows every repository but the gated one."""
    asked = []

    class Handler(chat_server.JsonHandler):
        def do_GET(self):
            repo = self.path.split("/", 3)[-1]
            if "/" in repo:  # the library also asks for other things
                asked.append(self.path)
            known = GATED not in self.path
            content = {"id": repo, "sha": commit_of(self.path)} if known else {"error": "gated"}
            self.say(200 if known else 403, content)

    with chat_server.running(Handler) as web:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{web.server_port}")
        yield asked


def test_every_hub_id_is_known():
    ids = pins.hub_ids()
    assert ids["models"] == [
        "Qwen/Qwen3-4B-Base", "Qwen/Qwen3-4B-Instruct-2507", "TIGER-Lab/general-verifier"
    ]  # fmt: skip
    assert set(ids["datasets"]) > {b.hub for b in hub_benchmarks.BENCHMARKS.values()}


def test_commits_are_looked_up_once_and_fill_the_profiles(hub, folder, capsys):
    assert pins.main() == 1  # one data set is gated
    assert f"Not found: {GATED}" in capsys.readouterr().err
    known = sum(len(ids) for ids in pins.hub_ids().values())
    assert len(hub) == known
    base = commit_of("/api/models/Qwen/Qwen3-4B-Base")
    for name in ("single_gpu", "paper"):
        profile = profiles.load(name, {"eval.model_verifier": pins.VERIFIER})
        assert profile.model.revision == base
        assert (
            profile.judge.revision
            == profile.teacher.revision
            == commit_of(f"/api/models/{profile.judge.name}")
        )
        assert profile.corpus.revision == commit_of("/api/datasets/TIGER-Lab/WebInstruct-verified")
        open_ones = {b.name: b.hub for b in hub_benchmarks.BENCHMARKS.values() if b.hub != GATED}
        assert set(profile.eval.benchmark_commits) == {
            f"{name}@{commit_of(f'/api/datasets/{hub_id}')}" for name, hub_id in open_ones.items()
        }
        assert profile.eval.model_verifier == f"{pins.VERIFIER}@{commit_of(f'/api/models/{pins.VERIFIER}')}"
        assert profiles.stage_settings(profile, "01_score")["model"]["revision"] == base
    assert profiles.load("cpu").model.revision is None
    hub.clear()
    pins.main()
    assert len(hub) == 1 and GATED in hub[0]


def test_a_revision_of_ones_own_stays_and_a_server_gets_none(folder):
    (folder / profiles.PINS).write_text(json.dumps({"models": {"Qwen/Qwen3-4B-Instruct-2507": "1" * 40}}))
    profile = profiles.load("paper", {"judge.revision": "2" * 40, "teacher.via": "http://host:8000/v1"})
    assert (profile.judge.revision, profile.teacher.revision) == ("2" * 40, None)
    assert profile.model.revision is None


@pytest.mark.fault
def test_a_damaged_file_of_pins_is_one_sentence(folder):
    (folder / profiles.PINS).write_text('{"models": ')
    with pytest.raises(InputError, match="pins.json is damaged.*`make pins`"):
        profiles.load("paper")


@pytest.mark.fault
def test_no_hub_is_one_sentence(folder, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="No commit could be looked up.*check the network") as caught:
        pins.update()
    assert "\n" not in str(caught.value) and not (folder / profiles.PINS).exists()
    assert pins.main() == 2 and capsys.readouterr().err.startswith("Error: No commit")
