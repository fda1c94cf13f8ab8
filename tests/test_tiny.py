"""Small policies: a recipe decides the name and the weights, and what is read keeps clear of what is asked later."""

import re
from dataclasses import replace
from itertools import islice, pairwise

import numpy as np
import pytest

from dereason_utils import corpora, mini_stem, pretraining, profiles, tiny

NANO = tiny.RECIPES["nano"]
TINIEST = replace(
    NANO, families=("mathematics.arithmetic",), corpus_of=None, vocabulary=400, shape=tiny._shape(32, 64, 1, 2, 128),
    steps=3, rows=2, window=48, bfloat16=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return tiny._tokenizer(tiny._texts(NANO, set(), 300), NANO.vocabulary, NANO.digits)


@pytest.mark.parametrize(
    "change",
    [{"seed": 12}, {"steps": 4}, {"calculations": 0.3}, {"shape": NANO.shape}, {"corpus_of": "nano"}],
)
def test_another_recipe_is_another_model(change):
    assert tiny.folder_name("a", TINIEST) == tiny.folder_name("a", replace(TINIEST))
    assert tiny.folder_name("a", replace(TINIEST, **change)) != tiny.folder_name("a", TINIEST)


def test_another_corpus_is_another_model(tmp_path, monkeypatch):
    before = tiny.folder_name("nano", NANO)
    text = (profiles.FOLDER / "nano.yaml").read_text()
    (tmp_path / "nano.yaml").write_text(text.replace("seed: !ours 2603", "seed: !ours 2604"))
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    assert tiny.folder_name("nano", NANO) != before


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_tokens_give_the_text_back(tokenizer, steps):
    for problem in mini_stem.generate("validation", 24, 3, (steps, steps)):
        text = f"{problem.question}\n{mini_stem.solve(problem.id, 0, 0.0)}"
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_numbers_below_a_hundred_are_one_token_for_nano_and_digits_are_for_tiny(tokenizer):
    apart = tiny._tokenizer(["12 plus 34 is 46"] * 4 + [tiny.NUMBERS], 400, digits=1)
    for number in range(100):
        assert len(tokenizer(f"({number})")["input_ids"]) == 3
        assert len(apart(f"({number})")["input_ids"]) == 2 + len(str(number))


def test_the_nano_policy_reads_no_problem_of_its_corpus():
    corpus = profiles.load("nano").corpus
    asked = {mini_stem.rebuild(name).key for name in corpora.load(corpus)["id"]}
    rng, known = np.random.default_rng(0), tiny.corpus_contents(NANO.corpus_of)
    read = {mini_stem.rebuild(pretraining.problem(NANO, rng, known)).key for _ in range(2000)}
    assert len(read) > 500 and not read & asked
    assert set(corpus.families) == set(NANO.families)


def test_calculations_are_right():
    rng = np.random.default_rng(0)
    found = re.findall(
        r"(\d+) ([-+*/]) (\d+) = (\d+)", "\n".join(pretraining.calculation(rng) for _ in range(300))
    )
    assert len(found) > 100 and {sign for _, sign, _, _ in found} == set("+-*/")
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__, "/": int.__floordiv__}
    assert all(compute[sign](int(a), int(b)) == int(r) for a, sign, b, r in found)


def test_loss_is_on_solutions_and_calculations_never_on_questions(tokenizer):
    recipe = replace(NANO, calculations=0.5)
    for ids, losses in islice(pretraining.documents(recipe, tokenizer, set()), 60):
        assert len(ids) == len(losses) and ids[-1] == tokenizer.eos_token_id
        kept = tokenizer.decode([token for token, carries in zip(ids, losses, strict=True) if carries])
        left = tokenizer.decode([token for token, carries in zip(ids, losses, strict=True) if not carries])
        assert left.endswith("\nSolution:\n") and r"\boxed{" in kept if left else r"\boxed" not in kept


def test_windows_are_full_and_begin_with_a_document():
    stream = iter([([1] * 7, [True] * 7), ([2] * 9, [False] * 9), ([3] * 20, [True] * 20)])
    made = pretraining.windows(stream, 10)
    assert next(made) == ([1] * 7 + [2] * 4, [True] * 7 + [False] * 4)
    assert next(made) == ([3] * 11, [True] * 11)


def test_the_learning_rate_rises_stays_and_falls():
    shares = [pretraining.pace(done, 1000) for done in range(1000)]
    assert shares[0] < 0.05 and shares[29:601] == [1.0] * 572
    assert shares[-1] == 0.02 and all(a >= b for a, b in pairwise(shares[29:]))


def test_the_same_recipe_gives_the_same_weights(tmp_path):
    import unsloth  # noqa: F401 (before transformers)

    made = []
    for name, recipe in (("a", TINIEST), ("b", TINIEST), ("c", replace(TINIEST, seed=12))):
        tiny.make(recipe, tmp_path / name)
        made.append(
            [(tmp_path / name / file).read_bytes() for file in ("model.safetensors", "tokenizer.json")]
        )
    assert made[0] == made[1] and made[0][0] != made[2][0]
