"""The graph of steps, when a step is out of date, the engine that runs it, and its environments."""

import ast
import importlib.metadata
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml

from dereason_utils import disk, manifest, paths, profiles, sources, workflow
from dereason_utils.errors import InputError
from dereason_utils.workflow import StepKey

FIXTURES = Path(__file__).parent / "fixtures" / "workflow"
ARMS = ["base", "sft_only"]


@pytest.fixture
def roots(tmp_path, monkeypatch):
    for name in ("RESULTS", "RUNS", "NOTEBOOKS"):
        monkeypatch.setenv(f"DEREASON_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("PYTHONPATH", str(paths.REPO))
    shutil.copytree(FIXTURES, tmp_path / "notebooks")
    return tmp_path


# ---- the graph ----


def test_every_step_comes_after_those_that_it_reads():
    profile = profiles.load("cpu", {"seeds": [0, 1]})
    seen = set()
    for key in workflow.steps(profile):
        assert set(workflow.earlier(profile, key)) <= seen
        workflow.check(profile, key)
        seen.add(key)
    stages = [key.stage for key in seen]
    counts = {stage: stages.count(stage) for stage in paths.STAGES}
    assert counts == {
        "01_score": 1,
        "02_split": 2,
        "03_sft": 6,
        "04_grpo": 6,
        "05_eval": 9,  # the base model is the same whatever the seed
        "06_figures": 1,
    }


SCORED, SPLIT = StepKey("01_score"), StepKey("02_split", None, 0)


@pytest.mark.parametrize(
    ("key", "reads"),
    [
        (StepKey("01_score"), []),
        (StepKey("02_split", None, 0), [StepKey("01_score")]),
        (StepKey("02_split", None, 1), [SCORED, SPLIT]),
        (StepKey("03_sft", "dereason", 0), [SCORED, SPLIT]),
        (StepKey("03_sft", "dereason", 1), [SCORED, StepKey("02_split", None, 1), SPLIT]),
        (StepKey("04_grpo", "rl_only", 0), [SCORED, SPLIT]),
        (StepKey("04_grpo", "dereason", 0), [SCORED, SPLIT, StepKey("03_sft", "dereason", 0)]),
        (StepKey("04_grpo", "sft_rl_score_2", 0), [SCORED, SPLIT, StepKey("03_sft", "dereason", 0)]),
        (StepKey("05_eval", "base", 0), [SCORED]),
        (StepKey("05_eval", "sft_only", 0), [SCORED, StepKey("03_sft", "sft_only", 0)]),
        (StepKey("05_eval", "dereason", 0), [SCORED, StepKey("04_grpo", "dereason", 0)]),
    ],
)
def test_what_a_step_reads(key, reads):
    assert workflow.earlier(profiles.load("cpu", {"seeds": [0, 1]}), key) == reads


def test_equal_sft_is_trained_once_even_for_an_arm_that_is_not_compared():
    arms = ["base", "sft_all_then_rl_all", "sft_all_then_hard_rl", "dereason", "sft_rl_score_1"]
    profile = profiles.load("cpu", {"arms": arms})
    trained = [key.arm for key in workflow.steps(profile) if key.stage == "03_sft"]
    assert trained == ["sft_only", "dereason"]
    workflow.check(profile, StepKey("03_sft", "sft_only", 0))
    with pytest.raises(InputError, match="goes on from the SFT of 'sft_only'"):
        workflow.check(profile, StepKey("03_sft", "sft_all_then_rl_all", 0))


def test_arms_that_the_paper_lacks_may_have_fewer_seeds():
    settings = {"arms": ["base", "dereason", "reversed"], "seeds": [0, 1, 2], "other_seeds": 2}
    profile = profiles.load("cpu", settings)
    seeds = {
        arm: [k.seed for k in workflow.steps(profile) if k[:2] == ("05_eval", arm)] for arm in profile.arms
    }
    assert seeds == {"base": [0], "dereason": [0, 1, 2], "reversed": [0, 1]}
    with pytest.raises(InputError, match="of its runs there are those of the seeds 0, 1"):
        workflow.check(profile, StepKey("05_eval", "reversed", 2))


def test_a_matched_arm_comes_after_the_arm_whose_cost_it_reads():
    profile = profiles.load("cpu", {"arms": ["sft_only_tokens", "dereason"]})
    (key,) = [key for key in workflow.steps(profile) if key[:2] == ("03_sft", "sft_only_tokens")]
    assert workflow.earlier(profile, key) == [
        SCORED,
        SPLIT,
        StepKey("03_sft", "dereason", 0),
        StepKey("04_grpo", "dereason", 0),
    ]
    before = workflow.steps(profile)[: workflow.steps(profile).index(key)]
    assert set(workflow.earlier(profile, key)) <= set(before)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arms", "says"),
    [(["dereson"], "Unknown arm 'dereson' in profile cpu"), (["sft_only_updates"], "matched to 'dereason'")],
)
def test_a_profile_with_arms_that_cannot_be_run_is_refused(arms, says):
    with pytest.raises(InputError, match=says):
        workflow.steps(profiles.load("cpu", {"arms": arms}))


def test_figures_read_everything():
    profile = profiles.load("cpu")
    assert workflow.earlier(profile, StepKey("06_figures")) == workflow.steps(profile)[:-1]


# ---- what a step's code is ----


@pytest.fixture
def small_package(tmp_path, monkeypatch):
    files = {
        "a.py": "from dereason_utils import b\nfrom dereason_utils.errors import InputError\n",
        "b.py": "def f():\n    import dereason_utils.folder\n    return 1\n",
        "folder/__init__.py": "from .inner import g\n",
        "folder/inner.py": "from ..c import h\n\ng = h\n",
        "folder/program.py": "print('started by name')\n",
        "c.py": "h = 1\n",
        "plots.py": "colour = 'red'\n",
        "errors.py": "class InputError(ValueError):\n    pass\n",
    }
    for name, text in files.items():
        path = tmp_path / "dereason_utils" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("Words."),
            nbformat.v4.new_code_cell("%matplotlib inline\nfrom dereason_utils.a import b"),
        ]
    )
    nbformat.write(notebook, tmp_path / "03_sft.ipynb")
    monkeypatch.setattr(paths, "REPO", tmp_path)
    monkeypatch.setenv("DEREASON_NOTEBOOKS", str(tmp_path))
    return tmp_path


def test_modules_are_found_near_and_far_and_plumbing_is_not(small_package):
    found = [
        path.relative_to(small_package / "dereason_utils").as_posix() for path in sources.modules("03_sft")
    ]
    assert found == ["a.py", "b.py", "c.py", "folder/__init__.py", "folder/inner.py", "folder/program.py"]


@pytest.mark.parametrize(
    ("file", "old", "new", "counts"),
    [
        ("dereason_utils/c.py", "h = 1", "h = 2", True),
        ("dereason_utils/folder/program.py", "started", "begun", True),
        ("03_sft.ipynb", "dereason_utils.a", "dereason_utils.c", True),
        ("dereason_utils/plots.py", "red", "blue", False),
        ("dereason_utils/errors.py", "pass", "x = 1", False),
        ("dereason_utils/c.py", "h = 1", "# why\nh = 1  # one", False),
        ("dereason_utils/b.py", "def f():", 'def f():\n    """What."""', False),
        ("03_sft.ipynb", "Words.", "Other words.", False),
        (
            "03_sft.ipynb",
            '"outputs": []',
            '"outputs": [{"output_type": "stream", "name": "x", "text": "y"}]',
            False,
        ),
    ],
)
def test_only_changes_that_can_change_a_result_count(small_package, file, old, new, counts):
    before = sources.code_hash("03_sft")
    path = small_package / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    sources._read_code.cache_clear()  # a change within the clock's resolution that keeps the size
    assert (sources.code_hash("03_sft") != before) == counts


def test_what_a_later_python_adds_to_its_syntax_trees_changes_no_hash(small_package, monkeypatch):
    before = sources.code_hash("03_sft")
    for kind in (ast.FunctionDef, ast.ClassDef):  # as 3.12 did with type_params
        monkeypatch.setattr(kind, "_fields", (*kind._fields, "later"))
        monkeypatch.setattr(kind, "later", [], raising=False)
    sources._read_code.cache_clear()
    assert sources.code_hash("03_sft") == before


def test_a_change_that_is_listed_as_changing_no_result_counts_as_the_code_before(
    small_package, monkeypatch, tmp_path
):
    shutil.copy(paths.notebook_path("03_sft"), paths.notebook_path("06_figures"))
    before, path = sources.code_hash("03_sft"), small_package / "dereason_utils/c.py"
    assert sources.code_hash("06_figures") == before
    old = sources.module_hash(path)
    path.write_text(path.read_text() + "\n\ndef later():\n    return 1\n")
    sources._read_code.cache_clear()
    assert sources.code_hash("03_sft") != before
    new, listed = sources.module_hash(path), tmp_path / "same_results.yaml"
    listed.write_text(
        f"c.py:\n  code: {new}\n  counts_as: {old}\n  changed: 2026-01-01\n  why: nobody calls it\n"
    )
    monkeypatch.setattr(sources, "SAME_RESULTS", listed)
    monkeypatch.setattr(sources, "same_results", sources.same_results.__wrapped__)  # not what was read before
    assert sources.code_hash("03_sft") == before
    assert sources.code_hash("06_figures") != before, "tables are drawn again"


@pytest.mark.parametrize("module", sources.same_results())
def test_what_is_listed_as_changing_no_result_is_the_module_as_it_is(module):
    """Another change of it needs another look: compare again and mend the entry, or take it out."""
    assert sources.module_hash(paths.REPO / sources.PACKAGE / module) == sources.same_results()[module].code


def test_plots_are_no_part_of_training_and_training_is_no_part_of_plots():
    training = {path.stem for path in sources.modules("03_sft") + sources.modules("04_grpo")}
    assert not training & {"figures", "plotting", "render", "tables", "results"}
    assert {"sft", "grpo"} <= training
    assert not {path.stem for path in sources.modules("06_figures")} & {"sft", "grpo", "models", "evaluate"}


# ---- the engine ----


def engine_line(roots, *words, arms=ARMS, profile="smoke"):
    flags = re.search(r"-m snakemake (.*)", (paths.REPO / "Makefile").read_text())[1].split()
    overrides = "overrides=" + json.dumps({"arms": arms})
    line = [sys.executable, "-m", "snakemake", *flags, "--quiet", "all", "--directory", roots]
    return [
        *line,
        "--snakefile",
        paths.REPO / "Snakefile",
        *words,
        "--config",
        f"profile={profile}",
        overrides,
    ]


def snakemake(roots, *words, **changes):
    line = engine_line(roots, *words, **changes)
    begun = time.monotonic()
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    steps = re.findall(r"^=== (.*?)  \|", done.stdout, flags=re.MULTILINE)
    return done, steps, time.monotonic() - begun


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_the_engine_runs_what_is_out_of_date_and_nothing_else(roots):
    """One long story, because every chapter needs the run before it."""
    all_steps = [
        "01_score",
        "02_split seed 0",
        "03_sft sft_only seed 0",
        "05_eval base seed 0",
        "05_eval sft_only seed 0",
        "06_figures",
    ]
    # A step fails: the run stops with its sentence, and what is done stays done.
    notebook = roots / "notebooks" / "03_sft.ipynb"
    edit(notebook, "print(", "raise ValueError(")
    done, steps, _ = snakemake(roots)
    assert done.returncode == 1
    assert "Error in 03_sft sft_only seed 0: ValueError in cell [4]: working on" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "01_score" in steps
    assert paths.manifest_path("smoke", "02_split", seed=0).exists()

    # The same command goes on from there.
    edit(notebook, "raise ValueError(", "print(")
    done, more, _ = snakemake(roots)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted({*steps, *more}) == all_steps
    assert not {"01_score", "02_split seed 0"} & set(more)
    assert more[-1] == "06_figures"

    # Nothing changed, or only dates: nothing runs, within ten seconds.
    for path in [*roots.glob("notebooks/*"), *roots.glob("results/**/manifest.json")]:
        path.touch()
    done, steps, took = snakemake(roots)
    assert (done.returncode, steps) == (0, [])
    assert took < 10

    # Other drawing code: only the figures.
    edit(roots / "notebooks" / "06_figures.ipynb", "working on", "drawing")
    assert snakemake(roots)[1] == ["06_figures"]

    # A step that was run by hand with another setting is done again, with what reads it.
    by_hand = ["05_eval", "--profile", "smoke", "--arm", "base", "--seed", "0", "-o", "eval.seed=77"]
    subprocess.run([sys.executable, "-m", "dereason_utils.run", *by_hand], check=True, capture_output=True)
    done, steps, _ = snakemake(roots)
    assert steps == ["05_eval base seed 0", "06_figures"]
    assert "05_eval base seed 0 is done again: it was made with other settings or code." in done.stderr

    # A clone of what is committed: no models, none of Snakemake's records, dates in any order. Nothing is to be done.
    shutil.rmtree(roots / ".snakemake")
    for policy in roots.glob("results/**/policy"):
        shutil.rmtree(policy)
    for when, path in enumerate(sorted(roots.glob("results/**/*.*"), reverse=True)):
        os.utime(path, (1e9 + when, 1e9 + when))
    assert snakemake(roots)[1] == []

    # Another setting of 05 there: what it needs of 03 is trained again, in the dry run too.
    path = paths.manifest_path("smoke", "05_eval", "sft_only", 0)
    edit(path, '"samples": 2', '"samples": 3')
    again = ["03_sft sft_only seed 0", "05_eval sft_only seed 0", "06_figures"]
    done = snakemake(roots, "--dry-run")[0]
    assert done.stdout.splitlines() == [
        f"{again[0]}: policy is not here, and 05_eval sft_only seed 0 needs it",
        f"{again[1]}: it was made with other settings or code",
        "06_figures: it was made from other results",
    ]
    assert path.exists()
    assert snakemake(roots)[1] == again
    assert snakemake(roots)[1] == []


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core runs one step at a time")
def test_steps_that_do_not_need_each_other_share_the_cores(roots):
    """Each of two trainings waits for the other to begin; a line of output says whose it is."""
    waiting = """import os, time
other = {"sft_only": "dereason", "dereason": "sft_only"}[arm]
end = time.monotonic() + 60
while not (step.folder.parents[1] / other / f"seed{seed}" / manifest.LOCK).exists():
    assert time.monotonic() < end
    time.sleep(0.1)
print("threads", os.environ["OMP_NUM_THREADS"])
print("""
    path = roots / "notebooks" / "03_sft.ipynb"
    edit(path, "print(", json.dumps(waiting)[1:-1])
    done, _, _ = snakemake(roots, arms=["base", "sft_only", "dereason"])
    assert (done.returncode, done.stderr) == (0, "")
    for arm in ("sft_only", "dereason"):
        assert f"03_sft {arm} seed 0  threads {os.cpu_count() // 2}\n" in done.stdout
        made = manifest.load(paths.manifest_path("smoke", "03_sft", arm, 0))
        assert made.cores == os.cpu_count() // 2


# ---- what is to be done, without the engine ----

STUDY = {"arms": ["base", "sft_only", "sft_all_then_rl_all"], "seeds": [0, 1]}
SFT, RL = (
    StepKey(stage, arm, 0) for stage, arm in (("03_sft", "sft_only"), ("04_grpo", "sft_all_then_rl_all"))
)
SFT_EVAL, RL_EVAL = (StepKey("05_eval", key.arm, 0) for key in (SFT, RL))
FIGURES = StepKey("06_figures")


@pytest.fixture
def committed(roots):
    """All steps of a small study as they are in git: without the models. Returns the profile."""
    profile = profiles.load("smoke", STUDY)
    for key in workflow.steps(profile):
        step = manifest.begin(
            *key[:1], "smoke", *key[1:], parameters=profiles.stage_settings(profile, key.stage)
        )
        written = ("rows.csv", "problems.parquet", "sets.parquet", "answers.parquet")
        for name in (*written, "policy/weights"):
            disk.write_text(step.folder / name, f"{key} {name}")
        before = [
            manifest.load(paths.manifest_path("smoke", *other)) for other in workflow.earlier(profile, key)
        ]
        manifest.finish(step, before, [*written, "policy"])
        shutil.rmtree(step.folder / "policy")
    return profile


def to_do(profile):
    return list(workflow.to_do(profile, workflow.steps(profile)))


def test_with_all_there_but_the_models_nothing_is_to_be_done(committed):
    assert to_do(committed) == []
    assert workflow.done(committed) == set(workflow.steps(committed))


def test_what_was_run_so_far_is_whole_seeds_of_all_the_papers_arms_and_fewer_of_the_others(committed):
    def without(*keys):
        kept = [(path, path.read_bytes()) for path in (paths.manifest_path("smoke", *key) for key in keys)]
        for path, _ in kept:
            path.unlink()
        try:
            return workflow.so_far(profile)
        finally:
            for path, content in kept:
                path.write_bytes(content)

    profile = committed
    own, lacking = (StepKey("05_eval", arm, 1) for arm in ("sft_only", "sft_all_then_rl_all"))
    assert workflow.so_far(profile) == {}
    assert without(lacking) == {"other_seeds": 1}
    assert without(own) == without(own, lacking) == {"seeds": [0]}
    profile = profiles.load("smoke", STUDY | {"seeds": [0, 1, 2]})
    assert workflow.so_far(profile) == {"seeds": [0, 1]} and without(own) == {"seeds": [0]}
    assert without(lacking) == {"seeds": [0, 1], "other_seeds": 1}
    assert profiles.load("smoke", STUDY | without(lacking)).other_seeds == 1
    never = StepKey("05_eval", "sft_all_then_rl_all", 0)
    run_arms = [arm for arm in profile.arms if arm != "sft_all_then_rl_all"]
    assert len(run_arms) == len(profile.arms) - 1
    assert without(never, lacking) == {"seeds": [0, 1], "arms": run_arms}
    with pytest.raises(InputError, match="No seed of profile smoke has all its arms yet"):
        without(StepKey("05_eval", "sft_only", 0))
    profile = profiles.load("smoke", {"arms": ["base", "sft_all_then_rl_all"], "seeds": [0, 1]})
    assert without(lacking) == {"seeds": [0]}
    with pytest.raises(InputError, match="No seed of profile smoke has all its arms yet"):
        without(StepKey("05_eval", "sft_all_then_rl_all", 0))
    profile = profiles.load("smoke", STUDY | {"other_seeds": 1})
    assert without(lacking) == {}, "the profile asks for no more"


def test_a_changed_setting_runs_its_stage_again_and_trains_what_that_needs(committed):
    changed = profiles.load("smoke", {**STUDY, "eval.seed": 8})
    again = [key for key in workflow.steps(changed) if key.stage not in ("01_score", "02_split")]
    assert to_do(changed) == again
    reasons = workflow.to_do(changed, workflow.steps(changed))
    assert reasons[RL] == "policy is not here, and 05_eval sft_all_then_rl_all seed 0 needs it"


def test_a_changed_setting_of_rl_leaves_sft_s_results_be(committed):
    changed = profiles.load("smoke", {**STUDY, "arms": ["sft_all_then_rl_all"], "grpo.steps": 9})
    assert {key.stage for key in to_do(changed)} == {"03_sft", "04_grpo", "05_eval", "06_figures"}
    disk.write_text(paths.step_dir("smoke", *SFT) / "policy" / "weights", f"{SFT} policy/weights")
    assert SFT not in to_do(changed)


@pytest.mark.parametrize(
    ("key", "again"),
    [
        (FIGURES, [FIGURES]),
        (
            SFT_EVAL,
            [SFT, RL, SFT_EVAL, RL_EVAL, FIGURES],
        ),  # 04 reads the same SFT, whose bytes may be others here
        (RL_EVAL, [SFT, SFT_EVAL, RL, RL_EVAL, FIGURES]),
        (StepKey("05_eval", "base", 0), [StepKey("05_eval", "base", 0), FIGURES]),
    ],
)
@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest"])
def test_a_result_that_is_missing_or_changed_is_made_again(committed, key, again, damage):
    path = paths.step_dir("smoke", *key) / (paths.MANIFEST if damage == "no manifest" else "rows.csv")
    path.write_text("other") if damage == "changed" else path.unlink()
    assert sorted(to_do(committed)) == sorted(again)


def test_a_model_that_is_here_saves_its_training(committed):
    paths.manifest_path("smoke", *SFT_EVAL).unlink()
    disk.write_text(paths.step_dir("smoke", *SFT) / "policy" / "weights", f"{SFT} policy/weights")
    assert to_do(committed) == [SFT_EVAL, FIGURES]
    disk.write_text(paths.step_dir("smoke", *SFT) / "policy" / "weights", "cut")
    assert SFT in to_do(committed)


def test_another_seed_reads_what_the_first_left_and_trains_nothing_of_it(committed):
    more = profiles.load("smoke", {**STUDY, "seeds": [0, 1, 2]})
    assert {key.seed for key in to_do(more)} == {2, None}
    assert StepKey("01_score") not in to_do(more)
    one = [key for key in workflow.steps(more) if key.seed == 2]
    assert list(workflow.to_do(more, one)) == one


def test_a_missing_corpus_is_made_again_only_where_it_is_read(committed):
    (paths.step_dir("smoke", "01_score") / "problems.parquet").unlink()
    assert to_do(committed) == []
    paths.manifest_path("smoke", "05_eval", "base", 0).unlink()
    assert to_do(committed) == workflow.steps(committed)


@pytest.mark.parametrize("program", ["snakemake", "make"])
def test_ctrl_c_ends_everything_within_ten_seconds_and_says_how_to_go_on(roots, program):
    edit(roots / "notebooks" / "02_split.ipynb", "print(", "import time; time.sleep(600); print(")
    line = engine_line(roots)
    if program == "make":  # with this environment in place of the one that it would set up
        flags = f"SNAKEMAKE_FLAGS=--quiet all --directory {roots} --snakefile {paths.REPO / 'Snakefile'}"
        line = ["make", "reproduce", "PROFILE=smoke", f"PY={sys.executable}", f"STAMP={__file__}", flags]
    pipe = subprocess.PIPE
    run = subprocess.Popen(line, cwd=paths.REPO, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    works = paths.step_dir("smoke", "02_split", seed=0)
    while not (works / manifest.LOCK).exists():
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    started = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    begun = time.monotonic()
    os.killpg(run.pid, signal.SIGINT)  # what a terminal does: to every process in the foreground
    output, error = run.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    left = psutil.wait_procs(started, timeout=0.5)[
        1
    ]  # an orphan that has ended may still wait for PID 1 to take note
    assert [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert run.returncode != 0
    sentence = "02_split seed 0 stopped. Give the same command again to go on from the last checkpoint."
    assert (output + error).count(sentence) == 1
    assert "Traceback" not in output + error


def test_a_dry_run_lists_every_step_of_the_profile_and_writes_nothing(roots):
    profile = profiles.load("cpu")
    done = snakemake(roots, "--dry-run", arms=list(profile.arms), profile="cpu")[0]
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == [
        manifest.label(*key) for key in workflow.steps(profile)
    ]
    assert not (roots / "results").exists()


def test_an_unknown_profile_is_told_in_one_sentence(roots):
    done, _, _ = snakemake(roots, profile="nonsense")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Unknown profile 'nonsense': choose one of ")
    assert done.stderr.count("\n") == 1


def test_a_second_run_of_a_profile_refuses(roots):
    folder = roots / "results" / "smoke"
    folder.mkdir(parents=True)
    manifest.hold(folder)
    try:
        done, _, _ = snakemake(roots)
    finally:
        manifest.release(folder)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: Another run is writing to {folder}")


def test_results_of_another_format_version_stop_the_run(roots):
    path = paths.manifest_path("smoke", "06_figures")
    disk.write_text(path, '{"format_version": 99}')
    done, _, _ = snakemake(roots)
    assert done.returncode == 1
    assert "was written in format version 99" in done.stderr
    assert path.exists()


def test_unknown_steps_are_refused():
    profile = profiles.load("cpu")
    for key in (
        StepKey("03_sft", "base", 0),
        StepKey("04_grpo", "sft_only", 0),
        StepKey("05_eval", "base", 99),
    ):
        with pytest.raises(InputError):
            workflow.check(profile, key)


# ---- the environments ----


def pins(scale):
    """{package: version} of a lock; every line is a pin, a comment or empty."""
    found = {}
    for line in (paths.REPO / f"requirements-{scale}.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = re.fullmatch(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9_.!]+)(  # needed by .+)?", line)
            assert pin, f"not a plain pin: {line}"
            found[re.sub(r"[-_.]+", "-", pin[1]).lower()] = pin[2]
    return found


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
def test_every_pin_says_why(scale):
    lines = (paths.REPO / f"requirements-{scale}.lock").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line and not line.startswith("#") and "# needed by" not in line:
            assert before.startswith("# ") and not before.startswith("# ----"), f"{line} has no reason"


def test_both_scales_train_with_the_same_libraries():
    cpu, gpu = pins("cpu"), pins("gpu")
    for package in (
        "torch",
        "trl",
        "transformers",
        "peft",
        "accelerate",
        "datasets",
        "tokenizers",
        "math-verify",
    ):
        assert cpu[package] == gpu[package], package


def test_this_environment_is_the_locked_one():
    installed = {
        re.sub(r"[-_.]+", "-", dist.name).lower(): dist.version.split("+")[0]
        for dist in importlib.metadata.distributions()
    }
    scale = "gpu" if "vllm" in installed else "cpu"
    different = {name: version for name, version in pins(scale).items() if installed.get(name) != version}
    assert different == {}


def test_every_package_that_is_imported_is_pinned():
    of_module = importlib.metadata.packages_distributions()
    trees = [ast.parse(path.read_text()) for path in paths.REPO.glob("dereason_utils/**/*.py")]
    trees += [ast.parse(path.read_text()) for path in paths.REPO.glob("tests/*.py")]
    trees += [sources.notebook_code(path) for path in paths.REPO.glob("notebooks/*.ipynb")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }
    own = {"dereason_utils", *(path.stem for path in paths.REPO.glob("tests/**/*.py"))}
    modules = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - own
    # tests/fuzz_verify.py and tests/harness_agreement.py name these with a version, for environments of their own.
    pinned = {*pins("cpu"), *pins("gpu"), "atheris", "lm-eval"}
    missing = {
        name
        for name in modules
        if not pinned
        & {re.sub(r"[-_.]+", "-", dist).lower() for dist in of_module.get(name, [name.replace("_", "-")])}
    }
    assert missing == set()


def test_conda_installs_the_gpu_lock():
    environment = yaml.safe_load((paths.REPO / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert "python=3.11" in plain
    assert "pip" in plain
    assert pip == ["-r requirements-gpu.lock"]
    assert "vllm" in pins("gpu")
