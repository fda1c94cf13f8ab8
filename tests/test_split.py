"""The split and the arms' sets."""

import numpy as np
import pandas as pd
import pytest

from dereason_utils import split
from dereason_utils.errors import InputError

SUBJECTS = ("mathematics", "physics", "biology")


def pool(scores):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(len(scores))],
            "score": pd.array(scores, dtype="Int64"),
            "steps": [s or 1 for s in scores],
            # Mathematics is frequent among the hard problems, so that subjects tell selections apart.
            "subject": [
                "mathematics" if s and s > 3 and i % 4 else SUBJECTS[i % 3] for i, s in enumerate(scores)
            ],
            "response_correct": rng.random(len(scores)) < 0.8,
            "pass_rate": rng.integers(0, 5, len(scores)) / 4,
        }
    )


PROBLEMS = pool([1, 2, 3, 4, 5, 5, 2, 3, None, 4] * 20)
SCORED = PROBLEMS[PROBLEMS["score"].notna()]


def chosen(name, seed=0, threshold=3, problems=PROBLEMS):
    return split.select(problems, name, threshold, seed)


def ids(name, seed=0):
    return set(chosen(name, seed)["id"])


def test_threshold_three_sends_four_and_five_to_rl():
    assert set(chosen("easy")["score"]) == {1, 2, 3}
    assert set(chosen("hard")["score"]) == {4, 5}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("easy", "hard"),
        ("random_easy_sized", "random_hard_sized"),
        ("subject_matched_rest", "subject_matched"),
        ("passrate_easy", "passrate_hard"),
        ("upto_2", "above_2"),
        ("upto_4", "above_4"),
    ],
)
def test_two_halves_are_a_partition_of_the_scored_pool(first, second):
    assert ids(first) | ids(second) == ids("all") == set(SCORED["id"])
    assert not ids(first) & ids(second)
    assert chosen(first)["id"].tolist() == [i for i in SCORED["id"] if i in ids(first)], "in the pool's order"


@pytest.mark.parametrize(
    ("easy", "hard"),
    [
        ("random_easy_sized", "random_hard_sized"),
        ("subject_matched_rest", "subject_matched"),
        ("passrate_easy", "passrate_hard"),
    ],
)
def test_other_splits_have_dereasons_sizes(easy, hard):
    assert (len(chosen(easy)), len(chosen(hard))) == (len(chosen("easy")), len(chosen("hard"))) == (100, 80)


@pytest.mark.parametrize("name", ["random_easy_sized", "subject_matched", "passrate_hard", "1_in_4"])
def test_what_is_drawn_depends_on_the_seed_alone(name):
    assert ids(name, 0) == ids(name, 0) != ids(name, 1)


@pytest.mark.parametrize("name", ["all", "easy", "hard", "easy_right", "score_4", "upto_2"])
def test_what_is_not_drawn_is_the_same_for_every_seed(name):
    assert ids(name, 0) == ids(name, 1)


def test_subject_matched_has_the_hard_sets_subjects_and_any_difficulty():
    def mix(name):
        return chosen(name)["subject"].value_counts().to_dict()

    assert mix("subject_matched") == mix("hard")
    assert mix("random_hard_sized") != mix("hard"), "the subjects are no accident"
    assert set(chosen("subject_matched")["score"]) == {1, 2, 3, 4, 5}


def test_by_pass_rate_the_rarely_solved_are_hard():
    easy, hard = chosen("passrate_easy"), chosen("passrate_hard")
    border = hard["pass_rate"].max()
    assert easy["pass_rate"].min() == border, "problems alike are divided by the seed"
    assert (hard["pass_rate"] < border).sum() == (SCORED["pass_rate"] < border).sum()


@pytest.mark.fault
def test_without_pass_rates_the_setting_is_named():
    with pytest.raises(InputError, match=r"set pass_rate.samples"):
        chosen("passrate_hard", problems=PROBLEMS.assign(pass_rate=np.nan))


def test_filtered_teacher_keeps_the_easy_problems_with_a_right_answer():
    easy = chosen("easy")
    assert chosen("easy_right")["id"].tolist() == easy[easy["response_correct"]]["id"].tolist()
    assert 0 < len(chosen("easy_right")) < len(easy)


def test_a_score_alone():
    assert [set(chosen(f"score_{score}")["score"]) for score in range(1, 6)] == [{s} for s in range(1, 6)]


def test_parts_of_the_pool_hold_each_other():
    assert [len(chosen(f"1_in_{part}")) for part in (2, 4, 8, 16)] == [90, 45, 22, 11]
    assert ids("all") > ids("1_in_2") > ids("1_in_4") > ids("1_in_8") > ids("1_in_16")


DRAWN = split.selections(PROBLEMS, 3, 0)


def arm_sets(arm):
    return tuple(split.arm_set(PROBLEMS, DRAWN, arm, use) for use in ("sft", "rl"))


EXPECTED = {  # arm: the scores that SFT's phases see, those that RL's see
    "base": ([], []),
    "sft_only": (["12345"], []),
    "rl_only": ([], ["12345"]),
    "sft_then_hard_sft": (["123", "45"], []),
    "dereason": (["123"], ["45"]),
    "sft_easy": (["123"], []),
    "reversed": (["45"], ["123"]),
    "easy_rl_then_hard_rl": ([], ["123", "45"]),
    "sft_all_then_rl_all": (["12345"], ["12345"]),
    "sft_all_then_hard_rl": (["12345"], ["45"]),
    "threshold_2": (["12"], ["345"]),
    "threshold_4": (["1234"], ["5"]),
    "filtered_teacher": (["123"], ["45"]),
    "rl_score_2": ([], ["2"]),
    "sft_rl_score_5": (["123"], ["5"]),
}


@pytest.mark.parametrize("arm", EXPECTED)
def test_each_phase_of_an_arm_sees_its_scores(arm):
    def phases(part):
        if part is None:
            return []
        return ["".join(map(str, sorted(set(rows["score"])))) for _, rows in part.groupby("phase")]

    assert tuple(map(phases, arm_sets(arm))) == EXPECTED[arm]


@pytest.mark.parametrize("arm", split.ARMS)
def test_every_arm_can_be_drawn_and_no_stage_sees_a_problem_twice(arm):
    for names, part in zip((split.ARMS[arm].sft, split.ARMS[arm].rl), arm_sets(arm), strict=True):
        assert (part is None) == (names == ())
        if part is not None:
            assert part["phase"].unique().tolist() == list(range(1, len(names) + 1))
            assert part["id"].is_unique and len(part)


@pytest.mark.parametrize(
    "arm", ["dereason", "random_split", "reversed", "subject_matched_random", "passrate_split"]
)
def test_splits_share_no_problem_between_sft_and_rl(arm):
    sft, rl = arm_sets(arm)
    assert not set(sft["id"]) & set(rl["id"])
    assert len(sft) + len(rl) == len(SCORED)


def test_sizes_count_overlap_and_subjects():
    known = PROBLEMS.assign(answered=True, prompt_tokens=10, answer_tokens=3)
    table = split.sizes(known, DRAWN).set_index("arm")
    assert table.loc["dereason", ["sft", "rl", "shared"]].tolist() == [100, 80, 0]
    assert table.loc["sft_all_then_hard_rl", ["sft", "rl", "shared"]].tolist() == [180, 80, 80]
    assert table.loc["sft_then_hard_sft", ["sft", "rl"]].tolist() == [180, 0]
    assert table.loc["base", ["sft", "rl"]].tolist() == [0, 0]
    assert table.loc["dereason", ["sft_tokens", "rl_tokens"]].tolist() == [1300, 800]
    silent = split.sizes(known.assign(answered=known.index > 0), DRAWN).set_index("arm")
    assert silent.loc["dereason", ["sft", "rl"]].tolist() == [99, 80]
    assert table.loc["dereason", "sft_mathematics"] == (chosen("easy")["subject"] == "mathematics").mean()


@pytest.mark.fault
@pytest.mark.parametrize("scores", [[1, 2, 3], [4, 5]])
def test_an_empty_side_is_refused(scores):
    with pytest.raises(InputError, match="empty side"):
        chosen("all", problems=pool(scores))


@pytest.mark.fault
def test_an_empty_selection_is_named():
    with pytest.raises(InputError, match="'score_5' has no problems"):
        chosen("score_5", problems=pool([1, 2, 3, 4] * 5))


@pytest.mark.fault
def test_what_the_pool_cannot_give_is_left_out_and_named_where_an_arm_needs_it():
    problems = pool([1, 2, 3, 4] * 5)
    drawn = split.selections(problems, 3, 0)
    assert set(split.selections(PROBLEMS, 3, 0)) - set(drawn) == {"score_5", "above_4"}
    with pytest.raises(InputError, match="'score_5' has no problems"):
        split.selections(problems, 3, 0, needed={"score_5"})
    with pytest.raises(
        InputError, match="02_split has no selection 'score_5', which the arm 'rl_score_5' needs"
    ):
        split.arm_set(problems, drawn, "rl_score_5", "rl")


def test_what_is_drawn_is_kept_by_id_and_read_back_in_the_pools_order():
    rows = split.arm_set(PROBLEMS, DRAWN, "random_split", "sft")
    pd.testing.assert_frame_equal(rows.drop(columns="phase"), chosen("random_easy_sized"), check_dtype=False)
    assert split.arm_set(PROBLEMS.iloc[:9], DRAWN, "sft_only", "sft")["id"].tolist() == [
        f"p{i}" for i in range(9) if i != 8
    ]


def test_arms_with_the_same_sft_share_it_and_a_matched_one_does_not():
    shared = {arm: split.sft_of(arm) for arm in split.ARMS}
    assert [arm for arm, name in shared.items() if name == "sft_only"] == [
        "sft_only", "sft_all_then_rl_all", "sft_all_then_hard_rl",
    ]  # fmt: skip
    assert [arm for arm, name in shared.items() if name == "dereason"] == [
        "dereason", "sft_easy", *(f"sft_rl_score_{score}" for score in range(1, 6)),
    ]  # fmt: skip
    assert shared["sft_only_tokens"] == "sft_only_tokens" and shared["rl_only"] is None


def test_seeds_of_arms():
    assert split.seeds_of("base", (3, 5, 8), None) == (3,)
    assert split.seeds_of("dereason", (3, 5, 8), 2) == (3, 5, 8)
    assert split.seeds_of("reversed", (3, 5, 8), 2) == (3, 5)
    assert split.seeds_of("reversed", (3, 5, 8), None) == (3, 5, 8)


@pytest.mark.fault
def test_unknown_arms_and_selections_are_named():
    with pytest.raises(InputError, match="Unknown arm 'dereson'"):
        split.names_of("dereson")
    with pytest.raises(InputError, match="no selection 'eassy'"):
        chosen("eassy")
