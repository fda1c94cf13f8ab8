"""The registration says what the claims and the profile say, and whether it came before the runs."""

import subprocess

import pytest

from dereason_utils import claims, paths, profiles, registration
from dereason_utils.split import PAPER


def git(folder, *words):
    line = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "REPO", tmp_path)
    monkeypatch.setenv("DEREASON_RESULTS", str(tmp_path / "reproduced" / "results"))  # as ANEW=1 does
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "first")
    return tmp_path


@pytest.mark.parametrize("name", profiles.names())
def test_every_claim_is_either_tested_or_said_to_be_untestable(name):
    profile = profiles.load(name)
    text = registration.text(profile)
    assert text == registration.text(profile)
    for claim in claims.CLAIMS:
        reason = claims.why_not(claim, profile)
        assert (f"- {claim.id}: {reason}" in text) == bool(reason)
        assert (f"| {claim.id} |" in text) == (not reason)
    assert all(f"`{arm}`" in text for arm in profile.arms) and all(rule in text for rule in claims.RULES)
    assert f"| split.threshold | {profile.split.threshold} | paper |" in text


def test_the_command_writes_it_and_git_tells_whether_it_came_first(repository, capsys):
    profile = profiles.load("cpu")
    before = git(repository, "rev-parse", "HEAD")
    assert "make register PROFILE=cpu" in registration.standing(profile, [before])
    assert registration.main(["--profile", "cpu"]) == 0 and "commit it" in capsys.readouterr().out
    assert "no git history" in registration.standing(profile, [before])
    git(repository, "add", "results")
    git(repository, "commit", "-q", "-m", "register")
    registered = git(repository, "rev-parse", "HEAD")
    git(repository, "commit", "-q", "--allow-empty", "-m", "run")
    run = git(repository, "rev-parse", "HEAD")
    assert f"commit {registered[:10]}, which precedes every commit" in registration.standing(
        profile, [registered, run + "-dirty"]
    )
    late = registration.standing(profile, [before, run])
    assert f"does NOT precede these commits of the runs: {before[:10]}." in late
    other = profiles.load("cpu", {"seeds": [0, 1]})
    assert registration.standing(other, [run]).endswith("Today's profile or rules differ from it.")
    path = registration.path("cpu")
    path.write_text(path.read_text() + "\n")
    assert "differs from what was committed" in registration.standing(profile, [run])


def test_a_study_on_its_way_is_told_from_another_one(repository):
    assert registration.main(["--profile", "nano"]) == 0
    git(repository, "add", "results")
    git(repository, "commit", "-q", "-m", "register")

    def ending(overrides):
        return registration.standing(profiles.load("nano", overrides), []).rpartition(". ")[2]

    assert ending({}).endswith("every commit of the runs.")
    assert ending({"seeds": [0, 1, 2]}) == "So far 3 of its 20 training seeds were run."
    paper_first = ending({"seeds": [0, 1, 2], "other_seeds": 1})
    assert paper_first == "So far 3 of its 20 training seeds were run (1 for the arms that the paper lacks)."
    arms = [arm for arm in profiles.load("nano").arms if arm in PAPER]
    left_out = [arm for arm in profiles.load("nano").arms if arm not in PAPER]
    without = ending({"seeds": [0], "other_seeds": 1, "arms": arms})
    assert without == f"So far 1 of its 20 training seeds were run, without the arms {', '.join(left_out)}."
    others = ({"seeds": [1, 2]}, {"seeds": [0], "grpo.steps": 4}, {"seeds": [0], "arms": arms[:-1]})
    assert {ending(changed) for changed in others} == {"Today's profile or rules differ from it."}


@pytest.mark.fault
def test_an_unknown_profile_is_named(capsys):
    assert registration.main(["--profile", "cpus"]) == 2
    assert "Unknown profile 'cpus'" in capsys.readouterr().err
