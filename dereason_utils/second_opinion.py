"""A language model's opinion on the answers that the rules have judged: for a look, never for a reward or a table.

The protocol and its defences are `verify.model_verifier`'s; here it gets a model, and the rows of an evaluation.
"""

from collections.abc import Sequence

import pandas as pd

from dereason_utils import generate, models, prompts
from dereason_utils.benchmarks import BenchmarkItem
from dereason_utils.profiles import Model
from dereason_utils.verify.model_verifier import Generate, judge_equivalence

MAX_LENGTH = 2048  # tokens of request and reply together, whatever the policy's limit is
MAX_REPLY = 512  # tokens; a general verifier reasons before it decides
LOGGED = ["benchmark", "item_id", "sample", "gold", "extracted", "verdict", "reason"]
UNDECIDED = "undecided"


def load(name: str, policy: Model):
    """(model, tokenizer, its settings) of `eval.model_verifier`: a model's name, or a hub id as name@commit."""
    name, _, revision = name.partition("@")
    settings = policy.model_copy(
        update={
            "name": name, "revision": revision or None, "max_length": MAX_LENGTH, "full_finetuning": False,
            "prompt_style": "chat",
        }
    )  # fmt: skip
    model, tokenizer = models.load_policy(models.locate(settings), settings, 0, train=False)
    style = "chat" if tokenizer.chat_template else "plain"
    return model, tokenizer, settings.model_copy(update={"prompt_style": style})


def replies(model, tokenizer, settings: Model, max_reply: int = MAX_REPLY) -> Generate:
    """The function that `judge_equivalence` asks: greedy replies; empty where prompt and reply would not fit."""

    def answer(requests: list[str]) -> list[str]:
        turns = [[{"role": "user", "content": request}] for request in requests]
        texts = [prompts.render(turn, tokenizer, settings.prompt_style) for turn in turns]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        fit = [i for i, tokens in enumerate(ids) if len(tokens) + max_reply <= settings.max_length]
        drawn = generate.sample(
            model, tokenizer, [ids[i] for i in fit], max_new_tokens=max_reply, temperature=0.0, seed=0, batch_size=32
        )  # fmt: skip
        said = dict(zip(fit, drawn, strict=True))
        return [
            tokenizer.decode(said[i][0].tokens, skip_special_tokens=True) if i in said else ""
            for i in range(len(ids))
        ]

    return answer


def ask(rows: pd.DataFrame, items: Sequence[BenchmarkItem], answer: Generate) -> pd.DataFrame:
    """Every extracted answer with both verdicts; columns LOGGED, model, model_reason, reply.

    rows: of `evaluate.evaluate`. `model` is correct, incorrect or undecided (a reply that cannot be read). What the
    rules call unscorable is not asked: its gold answer is at fault. Nor are secret items: a reply may quote them.
    """
    questions = {item.problem.id: item.problem.question for item in items}
    shown = rows["completion"].notna()
    asked = rows[shown & rows["extracted"].notna() & (rows["verdict"] != "unscorable")].reset_index(drop=True)
    triples = [
        (questions[row.item_id], row.gold, row.extracted)
        for row in asked[["item_id", "gold", "extracted"]].itertuples()
    ]
    judgements = judge_equivalence(triples, answer)
    words = {True: "correct", False: "incorrect", None: UNDECIDED}
    return asked[LOGGED].assign(
        model=[words[judgement.equivalent] for judgement in judgements],
        model_reason=[judgement.reason for judgement in judgements],
        reply=[judgement.reply for judgement in judgements],
    )


def agreement(opinions: pd.DataFrame) -> pd.DataFrame:
    """Counts of answers by the rules' verdict (rows) and the model's (columns)."""
    table = pd.crosstab(opinions["verdict"], opinions["model"], rownames=["rules"], colnames=["model"])
    return table.reindex(
        index=["correct", "incorrect"], columns=["correct", "incorrect", UNDECIDED], fill_value=0
    )


def disagreements(opinions: pd.DataFrame) -> pd.DataFrame:
    """The answers on which rules and model differ, where the model decided."""
    decided = opinions[opinions["model"] != UNDECIDED]
    return decided[decided["verdict"] != decided["model"]]
