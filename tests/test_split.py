"""The split and the arms' sets."""

import pandas as pd
import pytest

from dereason_utils import split
from dereason_utils.errors import InputError


def pool(scores):
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(len(scores))],
            "score": pd.array(scores, dtype="Int64"),
            "steps": [s or 1 for s in scores],
            "subject": ["mathematics" if i % 2 else "physics" for i in range(len(scores))],
        }
    )


@pytest.fixture
def selections():
    return split.select(pool([1, 2, 3, 4, 5, 5, 2, 3, None, 4] * 5), threshold=3, seed=0)


def test_threshold_three_sends_four_and_five_to_rl(selections):
    assert set(selections["easy"]["score"]) == {1, 2, 3}
    assert set(selections["hard"]["score"]) == {4, 5}


def test_easy_and_hard_are_a_partition_of_the_scored_pool(selections):
    easy, hard, whole = (set(selections[name]["id"]) for name in ("easy", "hard", "all"))
    assert easy | hard == whole and not easy & hard
    assert len(whole) == 45  # five problems have no score


def test_random_selections_have_the_same_sizes_and_share_nothing(selections):
    first, second = selections["random_easy_sized"], selections["random_hard_sized"]
    assert (len(first), len(second)) == (len(selections["easy"]), len(selections["hard"]))
    assert not set(first["id"]) & set(second["id"])
    assert set(first["score"]) & {4, 5}, "a random half of this pool contains hard problems"


def test_random_selection_depends_on_the_seed_alone():
    problems = pool([1, 2, 3, 4, 5, 4] * 10)
    draws = [split.select(problems, 3, seed)["random_easy_sized"]["id"].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_arms_get_the_papers_sets(selections):
    sft, rl = split.arm_sets(selections, "dereason")
    assert sft is selections["easy"] and rl is selections["hard"]
    assert split.arm_sets(selections, "base") == (None, None)
    assert split.arm_sets(selections, "rl_only")[0] is None
    assert len(split.arm_sets(selections, "sft_only")[0]) == 45


def test_sizes_count_overlap_and_subjects(selections):
    table = split.sizes({arm: split.arm_sets(selections, arm) for arm in split.ARMS}).set_index("arm")
    assert table.loc["dereason", ["sft", "rl", "shared"]].tolist() == [25, 20, 0]
    assert table.loc["base", ["sft", "rl"]].tolist() == [0, 0]
    easy = selections["easy"]
    assert table.loc["dereason", "sft_mathematics"] == (easy["subject"] == "mathematics").mean()


@pytest.mark.fault
@pytest.mark.parametrize("scores", [[1, 2, 3], [4, 5]])
def test_an_empty_side_is_refused(scores):
    with pytest.raises(InputError, match="empty side"):
        split.select(pool(scores), 3, 0)


@pytest.mark.fault
def test_unknown_arm_is_named(selections):
    with pytest.raises(InputError, match="Unknown arm 'dereson'"):
        split.arm_sets(selections, "dereson")
