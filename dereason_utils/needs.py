"""What each stage of a profile needs: memory by part, tokens, hours; and whether it fits.

Everything here is an estimate made before anything runs. Memory is `memory_model`'s; the rest follows from the assumptions
below, of which none about GPUs is measured. Not counted: probes, spot checks, validation losses.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from dereason_utils import hub_benchmarks, paths, profiles, tiny, workflow
from dereason_utils import memory_model as memory
from dereason_utils.errors import InputError, first_line
from dereason_utils.split import ARMS

GB = 1e9


@dataclass(frozen=True)
class Card:
    """A class of card: dense bfloat16 operations and bytes from memory per second, by its maker's data sheet."""

    name: str
    memory_gb: float
    operations: float
    bandwidth: float


CARDS = (
    Card("24 GB, as an RTX 4090", 24, 165e12, 1.0e12),
    Card("48 GB, as an L40S", 48, 362e12, 0.86e12),
    Card("80 GB, as an A100", 80, 312e12, 2.0e12),
    Card("141 GB, as an H200", 141, 989e12, 4.8e12),
)
CPU = Card("two CPU cores", 0, 1.8e12, 8e9)  # such that LOG.md's runs of the `cpu` profile come out
TRAINING_SHARE = 0.3  # of the card's operations that a training step reaches: assumed
DECODING_SHARE = 0.5  # of the card's bandwidth that decoding reaches: assumed
USABLE = 0.9  # of a card's memory; the rest is CUDA's own, and holes between tensors: assumed
# On a CPU a long run's allocator holds far more than the tensors alive: with 2.2 times, and 0.8 GB for the kernel (what
# `smoke` takes), 03 and 04 of the first `cpu` run come out (7.2 and 7.5 GB); its 01 and 05 took 1.5 GB more than that.
KEPT_BY_MALLOC = 2.2
PROCESS_GB = 0.8
# Mean length of a completion, of the limit: the paper's Figure 4 has about 1,200 to 4,200 of 8,192.
COMPLETION_SHARE = 0.4
EASY_SHARE = 2 / 3  # of the problems go to SFT: as in results/cpu; the paper does not say
# Mean and longest, worked example included: counted with SmolLM2's tokenizer.
PROMPT_TOKENS = {"mini_stem": (115, 200)}
WEB_PROMPT_TOKENS = 300  # mean: assumed; the longest fill what model.max_length leaves beside the completion
ANSWER_TOKENS = {"mini_stem": (55, 110)}  # of the reference teacher, likewise
WEB_PROBLEMS = 229_000  # rows of WebInstruct-verified, where the profile takes all
LOGIT_TOKENS = 1024  # whose logits exist at once on a GPU: assumed; Unsloth takes as many as fit


@dataclass
class Need:
    """What one step of a stage needs.

    parts: bytes. scaled: the settings that make it smaller. shape: of the model that works; None where none does.
    share: the setting that gives vLLM its part of the card, and longest the tokens of one sequence that it must hold.
    """

    stage: str
    steps: int
    shape: memory.Shape | None = None
    parts: dict[str, float] = field(default_factory=dict)
    trained: float = 0  # tokens of one step that go forward and backward
    drawn: float = 0  # tokens of one step that are sampled
    at_once: int = 1  # sequences that are sampled at once
    held: int = 0  # tokens that each of them holds on average
    scaled: str = ""
    share: str = ""
    longest: int = 0

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Machine:
    """What is planned for. memory: usable bytes of one card, or of the computer without a card."""

    card: Card
    cards: int
    memory: float
    gpu: bool


# ---- memory and tokens per stage ----


def shape_of(name: str, revision: str | None = None) -> memory.Shape:
    """A model's shape by its name in a profile. Raises InputError when its config.json cannot be read."""
    if name in memory.KNOWN:
        return memory.KNOWN[name]
    if name in tiny.RECIPES:
        recipe = tiny.RECIPES[name]
        return memory.shape_from(
            recipe.shape | {"vocab_size": recipe.vocabulary, "tie_word_embeddings": True}
        )
    try:
        path = Path(name) / "config.json" if Path(name).is_dir() else _from_hub(name, revision)
        return memory.shape_from(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The shape of the model {name!r} cannot be read ({first_line(error)}): give a local folder with its "
            "config.json, or a commit of it where the hub can be reached."
        ) from error


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    if not profiles.is_commit(revision):
        raise ValueError("its revision is not a commit")
    return Path(hf_hub_download(name, "config.json", revision=revision))


def precision_of(settings: profiles.Model, gpu: bool) -> memory.Precision:
    """As `models.load_policy` loads it: float32 where all parameters are trained."""
    if settings.full_finetuning:
        return memory.Precision(memory.FLOAT32, None)
    weight = memory.BFLOAT16 if settings.bfloat16 else memory.FLOAT32
    four_bit = settings.load_in_4bit and gpu
    return memory.Precision(weight, settings.lora_rank, four_bit, autocast=settings.bfloat16)


def needs(profile: profiles.Profile, machine: Machine) -> list[Need]:
    """One row per kind of step, in the graph's order. All steps of a stage count as equal to its largest."""
    shape = shape_of(profile.model.name, profile.model.revision)
    precision = precision_of(profile.model, machine.gpu)
    steps = [key.stage for key in workflow.steps(profile)]
    count = {stage: steps.count(stage) for stage in paths.STAGES}
    made = {
        "01_score": lambda: _score(profile, shape, precision, machine, count["01_score"]),
        "02_split": lambda: _split(profile, machine, count["02_split"]),
        "03_sft": lambda: _sft(profile, shape, precision, machine, count["03_sft"]),
        "04_grpo": lambda: _grpo(profile, shape, precision, machine, count["04_grpo"]),
        "05_eval": lambda: _eval(profile, shape, precision, machine, count["05_eval"]),
    }
    rows = [made[stage]() for stage in made if count[stage]]
    return [*rows, Need("06_figures", count["06_figures"])]


def _problems(profile) -> int:
    return profile.corpus.train_size or WEB_PROBLEMS


def _prompt(profile) -> tuple[int, int]:
    """(mean, longest) tokens of a prompt."""
    limit = profile.model.max_length - profile.grpo.max_completion
    mean, longest = PROMPT_TOKENS.get(profile.corpus.name, (WEB_PROMPT_TOKENS, limit))
    return min(mean, limit), min(longest, limit)


def _answer(profile) -> tuple[float, int]:
    """(mean, longest) tokens of a teacher's answer."""
    if profile.corpus.name in ANSWER_TOKENS:
        return ANSWER_TOKENS[profile.corpus.name]
    limit = getattr(profile.teacher, "max_tokens", profile.grpo.max_completion)
    return COMPLETION_SHARE * limit, min(limit, profile.model.max_length - _prompt(profile)[0])


def _score(profile, shape, precision, machine, steps) -> Need:
    judge, problems = profile.judge, _problems(profile)
    if judge.via == "policy":
        prompt = _prompt(profile)[1]
        limit = judge.max_new_tokens
        parts = _own_sampler(shape, precision, machine, 64, prompt + limit)
        if judge.calibration_size:
            tuning = update(profile, shape, precision, machine, judge.batch_size, prompt + limit)
            parts = max(parts, tuning, key=lambda each: sum(each.values()))
        trained = judge.calibration_size * judge.epochs * (prompt + 20)
        rates = profile.pass_rate.samples * problems * COMPLETION_SHARE * profile.pass_rate.max_completion
        return Need("01_score", steps, shape, parts, trained, problems * limit + rates, 64, prompt + limit // 2,
                    "model.max_length")  # fmt: skip
    return _instruct("01_score", steps, judge, problems, "judge", machine)


def _split(profile, machine, steps) -> Need:
    if profile.teacher.via == "reference":
        return Need("02_split", steps)
    # It answers once, for all seeds.
    return _instruct("02_split", steps, profile.teacher, _problems(profile) / steps, "teacher", machine)


def _instruct(stage, steps, settings, problems, section, machine) -> Need:
    """An instruct model behind vLLM, or behind an address, where it takes nothing of this machine."""
    if settings.via != "vllm":
        return Need(stage, steps)
    mean = COMPLETION_SHARE * settings.max_tokens
    held = int(WEB_PROMPT_TOKENS + mean / 2)
    shape = shape_of(settings.name, settings.revision)
    weights = memory.weights(shape, memory.Precision(memory.BFLOAT16, None))
    pool = settings.memory_share * machine.memory / USABLE - weights
    parts = {"weights": weights, "KV cache": pool}
    return Need(stage, steps, shape, parts, 0, problems * mean, _fitting(shape, pool, held), held,
                f"{section}.max_length", f"{section}.memory_share", settings.max_length)  # fmt: skip


def _sft(profile, shape, precision, machine, steps) -> Need:
    (prompt, longest), (answer, longest_answer) = _prompt(profile), _answer(profile)
    length = min(profile.model.max_length, longest + longest_answer)
    parts = update(profile, shape, precision, machine, profile.sft.micro_batch_size, length)
    selections = max((ARMS[arm].sft for arm in profile.arms), key=len)
    share = 1 if any(ARMS[arm].sft == ("all",) for arm in profile.arms) else EASY_SHARE * len(selections)
    trained = _problems(profile) * share * profile.sft.epochs * (prompt + answer)
    return Need("03_sft", steps, shape, parts, trained, scaled="sft.micro_batch_size or model.max_length")


def _grpo(profile, shape, precision, machine, steps) -> Need:
    settings, (prompt, longest) = profile.grpo, _prompt(profile)
    rows = settings.prompts_per_step * settings.group_size
    mean = COMPLETION_SHARE * settings.max_completion
    parts = update(
        profile, shape, precision, machine, settings.micro_batch_size, longest + settings.max_completion
    )
    if settings.kl_weight and profile.model.full_finetuning:
        # TRL loads the policy once more and shares it out likewise; of an adapter it takes the weights below.
        parts["reference"] = memory.weights(shape, precision) / machine.cards
    held, share = int(prompt + mean / 2), _vllm_share(profile, machine)
    need = Need("04_grpo", steps, shape, parts, settings.steps * rows * (prompt + mean), settings.steps * rows * mean,
                rows, held, "grpo.micro_batch_size or model.max_length")  # fmt: skip
    if settings.kl_weight:
        need.trained *= 4 / 3  # one more pass forward, through the reference
    if share:  # vLLM inside the training process holds its share while the policy is trained
        engine = memory.weights(shape, memory.Precision(memory.BFLOAT16, None))
        shared = not profile.model.full_finetuning  # Unsloth lets both read the same weights
        pool = share * machine.memory / USABLE - (parts["weights"] if shared else engine)
        parts["KV cache"] = pool
        parts["weights"] += 0 if shared else engine
        need.at_once = min(rows // machine.cards, _fitting(shape, pool, held))
        need.share = "hardware.memory_share"
        need.longest = longest + settings.max_completion
        return need
    sampling = _own_sampler(shape, precision, machine, rows, longest + settings.max_completion)
    sampling |= {name: parts[name] for name in ("optimizer", "reference") if name in parts}
    if sum(sampling.values()) > need.total:
        need.parts, need.scaled = sampling, "grpo.prompts_per_step or grpo.group_size"
    return need


def _eval(profile, shape, precision, machine, steps) -> Need:
    settings, (prompt, longest) = profile.eval, _prompt(profile)
    mean = COMPLETION_SHARE * settings.max_completion
    drawn = _completions(profile) * mean
    held = int(prompt + mean / 2)
    if machine.gpu and profile.hardware.sampler == "vllm":
        weights = memory.weights(shape, memory.Precision(memory.BFLOAT16, None))
        pool = settings.memory_share * machine.memory / USABLE - weights
        parts = {"weights": weights, "KV cache": pool}
        return Need("05_eval", steps, shape, parts, 0, drawn, _fitting(shape, pool, held), held,
                    "model.max_length", "eval.memory_share", longest + settings.max_completion)  # fmt: skip
    parts = _own_sampler(shape, precision, machine, settings.batch_size, longest + settings.max_completion)
    return Need("05_eval", steps, shape, parts, 0, drawn, settings.batch_size, held,
                "eval.batch_size or eval.max_completion")  # fmt: skip


def _completions(profile) -> int:
    """Completions of one evaluation."""
    settings = profile.eval
    own = {
        "mini_stem": getattr(profile.corpus, "test_size", 0),
        "reasoning_gym": settings.reasoning_gym_size,
    }
    total = 0
    for name in settings.benchmarks:
        if name in own:
            total += own[name] * settings.samples
        else:
            benchmark = hub_benchmarks.BENCHMARKS[name]
            total += min(benchmark.size, settings.items_per_benchmark or benchmark.size) * benchmark.samples
    return total


def update(profile, shape, precision, machine, rows, length) -> dict[str, float]:
    """Parts of a training step: on a GPU with checkpoints of the blocks, which wait in the host's memory."""
    how = {"checkpointed": True, "offloaded": True} if machine.gpu else {"explicit_length": length}
    at_once = LOGIT_TOKENS if machine.gpu else 256  # grpo.HEAD_CHUNK, and TRL's chunk in SFT
    tokens = rows * length
    return memory.training(shape, precision, tokens, min(at_once, tokens), True, machine.cards, **how)


def _own_sampler(shape, precision, machine, rows, length) -> dict[str, float]:
    """generate.py: the cache of all rows at their longest, and a few float32 numbers for each token of the vocabulary.

    On a GPU it takes no more rows at once than half of the free memory holds (gpu.rows_that_fit).
    """
    weights, adapters = memory.weights(shape, precision), memory.adapters(shape, precision)
    if machine.gpu:
        rows = min(rows, _fitting(shape, (machine.memory - weights - adapters) / 2, length))
    return {
        "weights": weights,
        "adapters": adapters,
        "KV cache": memory.kv_cache(shape, rows * length, precision.compute),
        "logits": rows * shape.vocab * (precision.compute + 3 * memory.FLOAT32),
    }


def _vllm_share(profile, machine) -> float:
    """The part of a card that vLLM takes in the process that trains; none where it has a server, or there is no card."""
    hardware = profile.hardware
    return (
        hardware.memory_share if machine.gpu and hardware.sampler == "vllm" and not hardware.server else 0.0
    )


def _fitting(shape, pool: float, held: int) -> int:
    """Sequences of `held` tokens in a pool of bytes."""
    return max(1, int(pool / memory.kv_cache(shape, max(held, 1))))


# ---- what does not fit ----


def refuse(profile: profiles.Profile, rows: list[Need], machine: Machine) -> None:
    """Raise InputError for the first stage that the machine's memory cannot hold, with the setting to change."""
    for need in rows:
        pool = need.parts.get("KV cache", 0)
        if need.longest and pool < memory.kv_cache(need.shape, need.longest):
            raise InputError(
                f"{need.stage} leaves vLLM {max(0, pool) / GB:.1f} GB for keys and values, and one sequence of "
                f"{need.longest} tokens needs {memory.kv_cache(need.shape, need.longest) / GB:.1f} GB: "
                f"raise {need.share}, lower {need.scaled}, or take a larger card."
            )
        needed = required(need, machine)
        if needed > machine.memory * 1.001:
            part, size = max(need.parts.items(), key=lambda item: item[1])
            settings = profile.model
            four_bit = machine.gpu and not (settings.load_in_4bit or settings.full_finetuning)
            raise InputError(
                f"{need.stage} needs {needed / GB:.1f} GB and {machine.card.name}, gives {machine.memory / GB:.1f} GB "
                f"(largest part: {part}, {size / GB:.1f} GB): lower {need.scaled}"
                + (f", or lower {need.share}" if need.share else "")
                + (", or set model.load_in_4bit" if four_bit else "")
                + (", or share it out over more cards" if settings.full_finetuning else "")
                + "."
            )


def required(need: Need, machine: Machine) -> float:
    """Bytes, with what a process on a CPU takes beside its tensors."""
    if machine.gpu or not need.parts:
        return need.total
    return need.total * KEPT_BY_MALLOC + PROCESS_GB * GB


# ---- hours ----


def hours(need: Need, profile: profiles.Profile, machine: Machine) -> float:
    """Estimated hours of one step; a training has all cards.

    Training: 2 operations per parameter and token forward, 2 for the gradient of the activations, 2 more for that of
    the weights where all are trained (Kaplan et al., arXiv 2001.08361, section 2.1), and 2 for computing the blocks
    again. Decoding: each step reads the weights and all keys and values once (Pope et al., arXiv 2211.05102, section
    2), or is held up by its products.
    """
    if need.shape is None:
        return 0.0
    speed = machine.card.operations * TRAINING_SHARE
    factor = 4 + 2 * profile.model.full_finetuning + 2 * machine.gpu
    training = factor * need.shape.parameters * need.trained / speed
    read = need.parts["weights"] + memory.kv_cache(need.shape, need.at_once * need.held)
    step = max(
        read / (machine.card.bandwidth * DECODING_SHARE), 2 * need.shape.parameters * need.at_once / speed
    )
    cards = machine.cards if need.stage in ("03_sft", "04_grpo") else 1  # the other stages use one
    return (training + need.drawn / need.at_once * step) / cards / 3600
