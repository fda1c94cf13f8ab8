"""The sections of a profile: what each may hold, and what must fit together."""

import re
from typing import Annotated, Literal

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

# Own benchmarks, then the paper's (hub_benchmarks.BENCHMARKS), by their names in results/paper.
BENCHMARKS = (
    "mini_stem", "reasoning_gym", "mmlu_pro", "gpqa_diamond", "supergpqa", "bbeh", "aime24", "aime25", "math500",
)  # fmt: skip
Share = pydantic.confloat(ge=0, le=1)


def is_commit(revision: str | None) -> bool:
    """Whether a hub revision is a commit's 40 digits: a branch would be something else tomorrow."""
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


class Section(pydantic.BaseModel):
    """A group of settings; unknown names are refused."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Model(Section):
    """The policy. `name` is 'smollm2-135m-instruct' (embedded), 'tiny' or 'nano' (trained here) or a hub id."""

    name: str
    revision: str | None
    max_length: PositiveInt  # tokens of prompt and completion together
    bfloat16: bool
    load_in_4bit: bool
    full_finetuning: bool
    lora_rank: PositiveInt
    lora_alpha: PositiveInt
    prompt_style: Literal["chat", "plain", "zero_shot"]  # the form of the policy's prompt, see prompts.py


class Hardware(Section):
    """What trains and samples.

    sampler "own" is generate.py; "vllm" is vLLM, inside the training process or, if `server` is set, behind that
    address (`trl vllm-serve`). What is installed does not choose: results must not depend on it.
    """

    processes: PositiveInt  # of training, one for each GPU; above 1 accelerate shards the policy
    sampler: Literal["own", "vllm"]
    memory_share: Share  # of the memory, a GPU's or else the computer's, that vLLM takes beside the training
    server: str | None  # such as http://host:8000
    ratio_cap: (
        PositiveFloat  # upper bound of the ratio of the trainer's to vLLM's probability of a drawn token
    )


class MiniStem(Section):
    """Generated training problems. Steps are the inclusive range of true reasoning steps."""

    name: Literal["mini_stem"]
    families: Literal["all"] | tuple[str, ...]  # of mini_stem, such as "physics.segments"
    seed: NonNegativeInt
    train_size: PositiveInt
    validation_size: PositiveInt
    test_size: PositiveInt
    min_steps: PositiveInt
    max_steps: PositiveInt
    subject_skew: Share  # 0: subjects independent of difficulty; 1: mathematics as frequent in scores 4, 5 as in the paper

    @pydantic.model_validator(mode="after")
    def _ordered(self):
        if self.min_steps > self.max_steps:
            raise ValueError("min_steps is above max_steps")
        return self


class WebCorpus(Section):
    """One of the paper's corpora, from the hub or from a local folder with the same columns."""

    name: Literal["webinstruct_verified", "webscale_rl"]
    path: str | None  # a folder of Parquet or JSON files; null: the hub
    revision: str | None  # the hub's commit; null: from pins.json
    seed: NonNegativeInt
    train_size: PositiveInt | None  # null: all that the filters leave
    validation_size: PositiveInt
    max_question: PositiveInt  # characters
    max_answer: PositiveInt  # characters
    overlap_words: PositiveInt  # a problem that shares so many words in a row with a benchmark is taken out
    benchmark_folder: str | None  # a folder with one folder of files per benchmark; null: the hub


Corpus = Annotated[MiniStem | WebCorpus, Field(discriminator="name")]


class Instruct(Section):
    """An instruct model that answers and is never trained.

    `via` is 'vllm' (in this process) or the http address of a server that speaks OpenAI's chat protocol.
    """

    via: str = Field(pattern=r"^(vllm|https?://[^@\s]+)$")  # no password: notebooks show it
    name: str  # a hub id, a local folder, or the name that the server knows
    revision: str | None  # the hub's commit; null: from pins.json; a server has its own
    temperature: NonNegativeFloat  # 0 = greedy
    top_p: float = Field(gt=0, le=1)
    top_k: NonNegativeInt  # 0 = all tokens
    max_tokens: PositiveInt  # of a reply
    max_length: PositiveInt  # tokens of prompt and reply together, for vllm
    memory_share: float = Field(gt=0, le=1)  # of the GPU's memory, for vllm
    shard_size: PositiveInt  # replies that are kept on disk together

    @pydantic.field_serializer("via", when_used="json")
    def _without_the_host(self, via: str) -> str:
        """The same server under another address must not redo what it has answered."""
        return "vllm" if via == "vllm" else "address"


class ModelJudge(Instruct):
    """An instruct model that follows the whole rubric as it is, as the paper's judge does (section 2.2)."""

    split_by: Literal["llm", "reference"]
    retries: NonNegativeInt


class PolicyJudge(Section):
    """The policy itself, tuned on rubric-labelled problems: for a policy too small to follow the rubric as it is."""

    via: Literal["policy"]
    split_by: Literal["llm", "reference"]
    calibration_size: (
        NonNegativeInt  # rubric-labelled problems of held-out families; 0 = the judge is not tuned
    )
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    max_new_tokens: PositiveInt
    retries: NonNegativeInt


def _kind(section) -> str:
    """Which of a section's kinds its `via` names."""
    via = section.get("via") if isinstance(section, dict) else getattr(section, "via", None)
    return via if via in ("policy", "reference") else "model"


# Who rates reasoning intensity. The LLM judge always runs; `split_by` says whose rating 02 uses.
Judge = Annotated[
    Annotated[PolicyJudge, pydantic.Tag("policy")] | Annotated[ModelJudge, pydantic.Tag("model")],
    pydantic.Discriminator(_kind),
]


class PassRate(Section):
    """The untrained policy's own pass rate per training problem, for the arm passrate_split; 0 samples: not measured."""

    samples: NonNegativeInt
    temperature: PositiveFloat
    max_completion: PositiveInt  # tokens


class Split(Section):
    """Problems rated at most `threshold` go to SFT, the others to RL (paper, section 2.2)."""

    threshold: int = Field(ge=1, le=4)


class ReferenceTeacher(Section):
    """`mini_stem`'s own solver; `slip` is its probability of a wrong step."""

    via: Literal["reference"]
    slip: Share


Teacher = Annotated[
    Annotated[ReferenceTeacher, pydantic.Tag("reference")] | Annotated[Instruct, pydantic.Tag("model")],
    pydantic.Discriminator(_kind),
]
KINDS = ("corpus", "judge", "teacher")  # sections that come in several kinds, each with settings of its own


class Sft(Section):
    epochs: PositiveFloat
    batch_size: PositiveInt  # examples per optimizer step
    micro_batch_size: PositiveInt
    learning_rate: PositiveFloat
    warmup_share: Share
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat


class Grpo(Section):
    steps: PositiveInt  # rollout batches
    prompts_per_step: PositiveInt
    updates_per_step: (
        PositiveInt  # optimizer steps per rollout batch (paper: 128 prompts, mini-batch 64, so 2)
    )
    group_size: int = Field(ge=2)
    micro_batch_size: PositiveInt
    learning_rate: PositiveFloat
    warmup_share: Share
    schedule: Literal["cosine", "linear", "constant"]
    weight_decay: NonNegativeFloat
    max_grad_norm: PositiveFloat
    temperature: PositiveFloat
    max_completion: PositiveInt  # tokens
    clip_low: PositiveFloat
    clip_high: PositiveFloat
    kl_weight: NonNegativeFloat
    loss: Literal["grpo", "dapo", "dr_grpo"]
    scale_rewards: bool
    mask_truncated: bool
    save_every: PositiveInt  # optimizer steps between checkpoints
    probe_size: PositiveInt  # hard training problems of the pass@k probe before RL
    evaluate_every: NonNegativeInt  # steps between evaluations of the policy along RL (Figure 6); 0 = never
    evaluate_size: PositiveInt  # held-out problems of such an evaluation


class Eval(Section):
    """`benchmarks`: names of BENCHMARKS. `benchmark_commits`: name@commit of those that come from the hub.

    `samples` is that of mini_stem and reasoning_gym; the others have theirs in hub_benchmarks, and are greedy where it
    is 1. `temperature` holds wherever several samples are drawn, and for the own benchmarks.
    """

    benchmarks: tuple[str, ...] = Field(min_length=1)
    benchmark_commits: tuple[str, ...]
    benchmark_folder: str | None  # with a folder <name> of files per benchmark; null: the hub
    items_per_benchmark: PositiveInt | None  # of the hub's, drawn by `seed`; null: all
    samples: PositiveInt
    temperature: NonNegativeFloat  # 0 = greedy
    max_completion: PositiveInt
    batch_size: PositiveInt
    memory_share: (
        Share  # of the memory, a GPU's or else the computer's, that vLLM takes if hardware.sampler is vllm
    )
    reasoning_gym_size: PositiveInt
    seed: NonNegativeInt
    # A model's name as for policies, a hub id as name@commit, or name@http://host:8000/v1 (no password: notebooks show it)
    # of a server that speaks OpenAI's chat protocol; null: rules alone.
    model_verifier: str | None = Field(pattern=r"^[^@]+(@([0-9a-f]{40}|https?://[^@\s]+))?$")

    @pydantic.field_serializer("model_verifier", when_used="json")
    def _without_the_host(self, value: str | None) -> str | None:
        """As `Instruct.via`: the same server under another address must not redo what it has answered."""
        return value and re.sub("@http.*", "@address", value)

    @pydantic.model_validator(mode="after")
    def _greedy_once(self):
        if self.temperature == 0 and self.samples > 1:
            raise ValueError("samples must be 1 when temperature is 0 (greedy decoding repeats itself)")
        return self

    @pydantic.field_validator("benchmarks")
    @classmethod
    def _known(cls, value):
        if unknown := [name for name in value if name not in BENCHMARKS]:
            raise ValueError(f"unknown benchmark {unknown[0]!r}: choose among {', '.join(BENCHMARKS)}")
        if len(set(value)) < len(value):
            raise ValueError("a benchmark stands there twice")
        return value

    @pydantic.field_validator("benchmark_commits")
    @classmethod
    def _commits(cls, value):
        for entry in value:
            name, _, commit = entry.partition("@")
            if name not in BENCHMARKS or not is_commit(commit):
                raise ValueError(f"{entry!r} is not a benchmark's name, @ and the 40 digits of a commit")
        return value


class Profile(Section):
    """All settings of one scale; `sources` maps each dotted name to 'paper', 'gr' or 'ours'."""

    name: str
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    arms: tuple[str, ...] = Field(min_length=1)
    other_seeds: (
        PositiveInt | None
    )  # arms that the paper lacks have the first so many of the seeds; null: all
    canary: bool  # the first minute's check on a CPU too; on a GPU it always runs
    # Steps that run beside each other on one machine and share its cores and memory. Small products gain little from
    # a second thread, so that two steps of one thread are quicker than one of two.
    steps_at_once: PositiveInt
    model: Model
    hardware: Hardware
    corpus: Corpus
    judge: Judge
    pass_rate: PassRate
    split: Split
    teacher: Teacher
    sft: Sft
    grpo: Grpo
    eval: Eval
    sources: dict[str, str]

    @pydantic.field_validator("seeds")
    @classmethod
    def _ascending(cls, value):
        """So that the seeds of two arms agree as far as the shorter list goes."""
        if list(value) != sorted(set(value)):
            raise ValueError("the seeds must ascend, each once")
        return value

    @pydantic.model_validator(mode="after")
    def _fits(self):
        rollouts, processes = self.grpo.prompts_per_step * self.grpo.group_size, self.hardware.processes
        if rollouts % (self.grpo.updates_per_step * self.grpo.micro_batch_size * processes):
            raise ValueError(
                "grpo: prompts_per_step x group_size is not a multiple of updates_per_step x micro_batch_size x "
                "hardware.processes"
            )
        if self.grpo.prompts_per_step % processes:
            raise ValueError("grpo: prompts_per_step is not a multiple of hardware.processes")
        if self.grpo.loss == "dr_grpo" and self.grpo.scale_rewards:
            # Unsloth turns the scaling off on a GPU and not on a CPU.
            raise ValueError("grpo: loss dr_grpo means scale_rewards false")
        if self.grpo.save_every % self.grpo.updates_per_step:
            # Between two updates on the same rollouts a checkpoint would lack the rollouts.
            raise ValueError("grpo: save_every is not a multiple of updates_per_step")
        if self.sft.batch_size % (self.sft.micro_batch_size * processes):
            raise ValueError("sft: batch_size is not a multiple of micro_batch_size x hardware.processes")
        if processes > 1 and not self.model.full_finetuning:
            raise ValueError("hardware: processes above 1 need model.full_finetuning")
        if processes > 1 and self.grpo.evaluate_every:
            raise ValueError("grpo: evaluate_every above 0 needs hardware.processes 1")
        if processes > 1 and self.hardware.sampler == "own":
            raise ValueError("hardware: processes above 1 need the sampler vllm")
        if self.hardware.server and self.hardware.sampler != "vllm":
            raise ValueError("hardware: a server needs the sampler vllm")
        return self

    @pydantic.model_validator(mode="after")
    def _steps_are_known(self):
        """What needs true steps, or a program that solves the problems, needs mini_stem."""
        if isinstance(self.corpus, WebCorpus):
            needs = {
                "teacher.via: reference": self.teacher.via == "reference",
                "judge.split_by: reference": self.judge.split_by == "reference",
                "judge.calibration_size above 0": getattr(self.judge, "calibration_size", 0) > 0,
            }
            if wrong := [setting for setting, there in needs.items() if there]:
                raise ValueError(f"{wrong[0]} needs the corpus mini_stem, whose true steps are known")
        return self
