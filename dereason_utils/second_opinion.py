"""A language model's opinion on the answers that the rules have judged: for a look, never for a reward or a table.

The protocol and its defences are `verify.model_verifier`'s; here it gets a model, and the rows of an evaluation.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from dereason_utils import chat, generate, models, prompts, vllm_sampling
from dereason_utils.benchmarks import BenchmarkItem
from dereason_utils.errors import InputError
from dereason_utils.profiles import Instruct, Model, Profile
from dereason_utils.verify.model_verifier import Generate, judge_equivalence

MAX_REPLY = 2048  # tokens; a general verifier reasons before it decides (General-Reasoner, arXiv 2505.14652)
MAX_LENGTH = 4096  # tokens of request and reply together, whatever the policy's limit is
SHARD = 2048  # replies that are kept on disk together
LOGGED = ["benchmark", "item_id", "sample", "gold", "extracted", "verdict", "reason"]
UNDECIDED = "undecided"


def open_verifier(settings: Profile, folder: Path, label: str) -> Generate:
    """The function that `judge_equivalence` asks: greedy replies of `eval.model_verifier`.

    It runs behind its address, in vLLM where `hardware.sampler` is vllm (so the policy's engine must have been released),
    else in this process as a policy does. folder: keeps finished shards of replies. label: for progress lines. Raises
    InputError for a hub id without a commit, before anything is loaded.
    """
    name, _, where = settings.eval.model_verifier.partition("@")
    served = where.startswith("http")
    if not where and "/" in name and not Path(name).is_dir():
        raise InputError(
            f"eval.model_verifier is {name!r}, a hub id without a commit: run `make pins`, or write {name}@<its 40 digits>, "
            f"or {name}@http://host:8000/v1 where a server runs it. Finished batches of the evaluation are kept."
        )
    if not served and settings.hardware.sampler != "vllm":
        return replies(*load(settings.eval.model_verifier, settings.model))
    if not served:
        name = models.locate(settings.model.model_copy(update={"name": name, "revision": where or None}))
    # Of a card only what is free: the policy's memory may not all be back.
    share = min(settings.eval.memory_share, 0.95 * vllm_sampling.free_share())
    asked = Instruct(
        via=where if served else "vllm", name=name, revision=None if served else where or None, temperature=0.0,
        top_p=1.0, top_k=0, max_tokens=MAX_REPLY, max_length=MAX_LENGTH, memory_share=share, shard_size=SHARD,
    )  # fmt: skip
    return by_chat(chat.open_model(asked, 0, "eval.model_verifier"), asked, folder, label)


def by_chat(ask: chat.Ask, settings: Instruct, folder: Path, label: str) -> Generate:
    """The function that `judge_equivalence` asks, of an instruct model; a stopped run goes on with the next shard."""

    def answer(requests: list[str]) -> list[str]:
        turns = [[{"role": "user", "content": prompts.defuse_turns(request)}] for request in requests]
        said = chat.in_shards(
            turns, ask, chat.decoding(settings, 0), folder, settings.shard_size, label, model=settings.name,
            revision=settings.revision,
        )  # fmt: skip
        return [reply.text for reply in said]

    return answer


def load(name: str, policy: Model):
    """(model, tokenizer, its settings) of a model's name, or of a hub id as name@commit."""
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


def replies(model, tokenizer, settings: Model) -> Generate:
    """The function that `judge_equivalence` asks: greedy replies; empty where prompt and reply would not fit."""

    def answer(requests: list[str]) -> list[str]:
        turns = [[{"role": "user", "content": request}] for request in requests]
        texts = [prompts.render(turn, tokenizer, settings.prompt_style) for turn in turns]
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        fit = [i for i, tokens in enumerate(ids) if len(tokens) + MAX_REPLY <= settings.max_length]
        drawn = generate.sample(
            model, tokenizer, [ids[i] for i in fit], max_new_tokens=MAX_REPLY, temperature=0.0, seed=0, batch_size=32
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
