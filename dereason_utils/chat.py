"""Instruct models that answer and are never trained: judge, teacher and model verifier on a GPU.

One function asks them, whether the model runs in this process (vLLM, offline batches) or behind an address that speaks
OpenAI's chat protocol (`vllm serve` on another machine, say). Every finished shard of replies is kept on disk.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from dereason_utils import disk, progress, training, vllm_sampling
from dereason_utils.errors import InputError, first_line
from dereason_utils.profiles import Instruct, is_commit

PARALLEL = 64  # requests under way at an address; its server batches them
ATTEMPTS = 5  # per request, with growing pauses


@dataclass(frozen=True)
class Decoding:
    """How a reply is drawn. temperature 0 is greedy; top_k 0 means all tokens."""

    max_tokens: int
    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Reply:
    """One reply: its text, its length in tokens, and whether the model ended it (not the limit).

    A conversation that is too long for the model has an empty reply of no tokens. For the bill: the prompt's tokens, and
    this reply's share of the seconds that its shard took.
    """

    text: str
    tokens: int
    ended: bool
    prompt_tokens: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)


TOO_LONG = Reply("", 0, False)
Ask = Callable[[Sequence[list[dict]], Decoding], list[Reply]]


def open_model(settings: Instruct, seed: int, section: str) -> Ask:
    """The model of a profile's section ('judge', 'teacher', or 'eval.model_verifier'), wherever it runs.

    Raises InputError, before anything is loaded, for a hub id without a commit and where vLLM is not installed.
    """
    if settings.via != "vllm":
        return at_address(settings.via, settings.name)
    if not Path(settings.name).is_dir() and not is_commit(settings.revision):
        raise InputError(
            f"Model {settings.name!r} has the revision {settings.revision!r}: write the 40 digits of a commit of it with "
            f"`make pins` or as {section}.revision."
        )
    if find_spec("vllm") is None:
        raise InputError(
            f"{section}.via is vllm, which is not installed here: use the environment of requirements-gpu.lock, or set "
            f"{section}.via to the address of a server that runs {settings.name}."
        )
    return in_process(settings.name, settings.revision, settings.max_length, settings.memory_share, seed)


def decoding(settings: Instruct, seed: int) -> Decoding:
    return Decoding(settings.max_tokens, settings.temperature, settings.top_p, settings.top_k, seed)


def in_process(name: str, revision: str | None, max_length: int, memory_share: float, seed: int) -> Ask:
    """vLLM in this process. memory_share: part of the device's memory that it may take."""
    llm = vllm_sampling.engine(
        name, revision=revision, max_length=max_length, memory_share=memory_share, seed=seed
    )
    from vllm import SamplingParams

    tokenizer = llm.get_tokenizer()

    def fits(messages: list[dict], decoding: Decoding) -> bool:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) + decoding.max_tokens <= max_length

    def ask(conversations: Sequence[list[dict]], decoding: Decoding) -> list[Reply]:
        fitting = [i for i, messages in enumerate(conversations) if fits(messages, decoding)]
        sampling = [
            SamplingParams(
                max_tokens=decoding.max_tokens, temperature=decoding.temperature, top_p=decoding.top_p,
                top_k=decoding.top_k or -1, seed=decoding.seed + number,
            )
            for number in fitting
        ]  # fmt: skip
        replies = [TOO_LONG] * len(conversations)
        results = llm.chat([conversations[i] for i in fitting], sampling, use_tqdm=False) if fitting else []
        for i, result in zip(fitting, results, strict=True):
            out = result.outputs[0]
            ended = out.finish_reason == "stop"
            replies[i] = Reply(out.text, len(out.token_ids), ended, len(result.prompt_token_ids))
        return replies

    return ask


def at_address(address: str, name: str, timeout: float = 600.0) -> Ask:
    """The model `name` behind an address such as http://host:8000/v1. The key, if one is needed, is in OPENAI_API_KEY."""
    import tenacity
    from huggingface_hub import InferenceClient

    client = InferenceClient(
        base_url=address, api_key=os.environ.get("OPENAI_API_KEY", "none"), timeout=timeout
    )

    @tenacity.retry(
        stop=tenacity.stop_after_attempt(ATTEMPTS), wait=tenacity.wait_exponential_jitter(1, 30), reraise=True,
        retry=tenacity.retry_if_exception(_may_pass),
    )  # fmt: skip
    def one(messages: list[dict], decoding: Decoding, number: int) -> Reply:
        try:
            answer = client.chat_completion(
                messages, model=name, max_tokens=decoding.max_tokens, temperature=decoding.temperature,
                top_p=decoding.top_p, seed=decoding.seed + number,
                extra_body={"top_k": decoding.top_k} if decoding.top_k else None,
            )  # fmt: skip
        except Exception as error:
            if _is_too_long(error):
                return TOO_LONG
            raise
        choice, usage = answer.choices[0], answer.usage
        ended = choice.finish_reason == "stop"
        return Reply(choice.message.content or "", usage.completion_tokens, ended, usage.prompt_tokens)

    def ask(conversations: Sequence[list[dict]], decoding: Decoding) -> list[Reply]:
        with ThreadPoolExecutor(PARALLEL) as pool:
            jobs = [pool.submit(one, messages, decoding, i) for i, messages in enumerate(conversations)]
            try:
                return [job.result() for job in jobs]
            except Exception as error:
                pool.shutdown(cancel_futures=True)
                raise InputError(
                    f"{address} does not answer for {name} ({first_line(error)}): check the address, the model's name and "
                    "OPENAI_API_KEY, then give the same command again; finished shards are kept."
                ) from error

    return ask


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed later: the server is away or busy, not the request wrong."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status is None or status == 429 or status >= 500


def _is_too_long(error: BaseException) -> bool:
    """Whether the server refused the conversation for its length; the words are vLLM's and OpenAI's."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None) == 400 and "maximum context length" in response.text


def in_shards(
    conversations: Sequence[list[dict]],
    ask: Ask,
    decoding: Decoding,
    folder: Path,
    size: int,
    label: str,
    **facts,
) -> list[Reply]:
    """Ask everything, `size` conversations at a time; a run that was stopped goes on with the next shard.

    folder: keeps the shards as shard-00000.parquet, ... facts: what else the replies depend on (model, revision).
    """
    training.keep_own(
        folder, conversations=list(conversations), decoding=asdict(decoding), size=size, **facts
    )
    starts = range(0, len(conversations), size)
    files = [folder / f"shard-{number:05d}.parquet" for number in range(len(starts))]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    done = len(conversations) - sum(len(conversations[starts[n] : starts[n] + size]) for n in missing)
    bar, began, tokens = progress.Bar(len(conversations), label, start=done), time.monotonic(), 0
    for number in missing:
        part = conversations[starts[number] : starts[number] + size]
        # Another seed for each shard, and the same one whenever the shard is asked.
        asked_at = time.monotonic()
        replies = ask(part, replace(decoding, seed=decoding.seed + starts[number]))
        share = (time.monotonic() - asked_at) / len(part)
        disk.write_table(files[number], pd.DataFrame([asdict(replace(r, seconds=share)) for r in replies]))
        done, tokens = done + len(part), tokens + sum(reply.tokens for reply in replies)
        bar.update(done, f"{tokens / (time.monotonic() - began):.0f} tokens/s")
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    return [Reply(**row) for row in rows.to_dict("records")]


def bill(replies: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row: what the replies cost. replies: a row per `Reply`; name: the model's."""
    hours = replies["seconds"].sum() / 3600
    return pd.DataFrame([{
        "model": name, "replies": len(replies), "prompt_tokens": int(replies["prompt_tokens"].sum()),
        "tokens": int(replies["tokens"].sum()), "hours": hours,
        "tokens_per_s": replies["tokens"].sum() / replies["seconds"].sum(),
    }])  # fmt: skip
