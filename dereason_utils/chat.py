"""Instruct models that answer and are never trained: judge, teacher and model verifier on a GPU.

One function asks them, whether the model runs in this process (vLLM, offline batches) or behind an address that speaks
OpenAI's chat protocol (`vllm serve` on another machine, say). Every finished shard of replies is kept on disk.
"""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from dereason_utils import disk, progress, training, vllm_sampling
from dereason_utils.errors import InputError, first_line

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
    """One reply: its text, its length in tokens, and whether the model ended it (not the limit)."""

    text: str
    tokens: int
    ended: bool


Ask = Callable[[Sequence[list[dict]], Decoding], list[Reply]]


def in_process(name: str, revision: str | None, max_length: int, memory_share: float, seed: int) -> Ask:
    """vLLM in this process. memory_share: part of the device's memory that it may take."""
    llm = vllm_sampling.engine(
        name, revision=revision, max_length=max_length, memory_share=memory_share, seed=seed
    )
    from vllm import SamplingParams

    def ask(conversations: Sequence[list[dict]], decoding: Decoding) -> list[Reply]:
        sampling = [
            SamplingParams(
                max_tokens=decoding.max_tokens, temperature=decoding.temperature, top_p=decoding.top_p,
                top_k=decoding.top_k or -1, seed=decoding.seed + number,
            )
            for number in range(len(conversations))
        ]  # fmt: skip
        outputs = [result.outputs[0] for result in llm.chat(list(conversations), sampling, use_tqdm=False)]
        return [Reply(out.text, len(out.token_ids), out.finish_reason == "stop") for out in outputs]

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
        answer = client.chat_completion(
            messages, model=name, max_tokens=decoding.max_tokens, temperature=decoding.temperature,
            top_p=decoding.top_p, seed=decoding.seed + number,
            extra_body={"top_k": decoding.top_k} if decoding.top_k else None,
        )  # fmt: skip
        choice = answer.choices[0]
        return Reply(
            choice.message.content or "", answer.usage.completion_tokens, choice.finish_reason == "stop"
        )

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
        replies = ask(part, replace(decoding, seed=decoding.seed + starts[number]))
        disk.write_table(files[number], pd.DataFrame([asdict(reply) for reply in replies]))
        done, tokens = done + len(part), tokens + sum(reply.tokens for reply in replies)
        bar.update(done, f"{tokens / (time.monotonic() - began):.0f} tokens/s")
    rows = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    return [Reply(row.text, int(row.tokens), bool(row.ended)) for row in rows.itertuples()]
