"""Profiles: the only home of every number of the experiment.

A profile is a YAML file in this folder. Each value carries a tag that says where it comes from:
`!paper` (DeReason, arXiv 2603.11193), `!gr` (General-Reasoner, arXiv 2505.14652) or `!ours` (the paper is silent or
the scale forces another value). `load` checks names, types and ranges; `Profile.sources` keeps the tags. Where a profile
leaves the revision of a hub id open, `load` takes it from pins.json, which `make pins` writes.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dereason_utils.errors import InputError

FOLDER = Path(__file__).parent
PINS = "pins.json"  # in FOLDER: {"models": {hub id: commit}, "datasets": {hub id: commit}}
CORPUS_HUBS = {
    "webinstruct_verified": "TIGER-Lab/WebInstruct-verified",
    "webscale_rl": "Salesforce/Webscale-RL",
}
SOURCES = ("paper", "gr", "ours")
STAGES = ("01_score", "02_split", "03_sft", "04_grpo", "05_eval", "06_figures")
# Own benchmarks, then the paper's (hub_benchmarks.BENCHMARKS), by their names in results/paper.
BENCHMARKS = (
    "mini_stem", "reasoning_gym", "mmlu_pro", "gpqa_diamond", "supergpqa", "bbeh", "aime24", "aime25", "math500",
)  # fmt: skip
Share = pydantic.confloat(ge=0, le=1)


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
    prompt_style: Literal["chat", "plain"]


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
    reasoning_gym_size: PositiveInt
    seed: NonNegativeInt
    model_verifier: str | None  # a model's name as for policies, a hub id as name@commit; null: rules alone

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
    canary: bool  # the first minute's check on a CPU too; on a GPU it always runs
    model: Model
    corpus: Corpus
    judge: Judge
    pass_rate: PassRate
    split: Split
    teacher: Teacher
    sft: Sft
    grpo: Grpo
    eval: Eval
    sources: dict[str, str]

    @pydantic.model_validator(mode="after")
    def _fits(self):
        rollouts = self.grpo.prompts_per_step * self.grpo.group_size
        if rollouts % (self.grpo.updates_per_step * self.grpo.micro_batch_size):
            raise ValueError(
                "grpo: prompts_per_step x group_size is not a multiple of updates_per_step x micro_batch_size"
            )
        if self.grpo.save_every % self.grpo.updates_per_step:
            # Between two updates on the same rollouts a checkpoint would lack the rollouts.
            raise ValueError("grpo: save_every is not a multiple of updates_per_step")
        if self.sft.batch_size % self.sft.micro_batch_size:
            raise ValueError("sft: batch_size is not a multiple of micro_batch_size")
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


# What each stage's result depends on: a changed evaluation number does not retrain.
STAGE_SECTIONS = {
    "01_score": ("model", "corpus", "judge", "pass_rate", "sft"),
    "02_split": ("corpus", "split", "teacher", "arms"),
    "03_sft": ("model", "sft"),
    "04_grpo": ("model", "grpo"),
    "05_eval": ("model", "eval", "split"),
    "06_figures": ("arms", "seeds"),
}


class _Loader(yaml.SafeLoader):
    """Reads `!paper 128` as the pair (value, 'paper')."""


def _tagged(source):
    def construct(loader, node):
        if isinstance(node, yaml.SequenceNode):
            return loader.construct_sequence(node), source
        plain = yaml.ScalarNode(loader.resolve(yaml.ScalarNode, node.value, (True, False)), node.value)
        return loader.construct_object(plain), source

    return construct


for _source in SOURCES:
    _Loader.add_constructor(f"!{_source}", _tagged(_source))


def is_commit(revision: str | None) -> bool:
    """Whether a hub revision is a commit's 40 digits: a branch would be something else tomorrow."""
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


def pinned(kind: Literal["models", "datasets"], hub_id: str) -> str | None:
    """The commit that pins.json has for a hub id, or None."""
    path = FOLDER / PINS
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(kind, {}).get(hub_id)
    except (ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged: remove it and run `make pins`.") from error


def names() -> list[str]:
    """The profiles that exist."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, overrides: dict[str, object] | None = None) -> Profile:
    """Read a profile and replace single values, e.g. `load("cpu", {"grpo.steps": 4})`.

    A whole section is replaced by a dict: `load("smoke", {"teacher": {"via": "reference", "slip": 0.1}})`. Raises
    InputError for an unknown profile or name and for a value of the wrong type or out of range.
    """
    if name not in names():
        raise InputError(f"Unknown profile {name!r}: choose one of {', '.join(names())}.")
    path = FOLDER / f"{name}.yaml"
    tree, sources = {"name": name}, {}
    for section, settings in yaml.load(path.read_text(), _Loader).items():
        _unpack(tree, sources, section, settings, path.name)
    for key, value in (overrides or {}).items():
        _override(tree, sources, key, value)
    _fill_pins(tree)
    try:
        return Profile.model_validate({**tree, "sources": sources})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        # pydantic puts the kind of such a section behind its name.
        loc = [part for i, part in enumerate(first["loc"]) if i != 1 or first["loc"][0] not in KINDS]
        where = ".".join(map(str, loc)) or "settings"
        hint = (
            f"; {loc[0]} of another kind is given as a whole: -o '{loc[0]}={{...}}'"
            if first["type"] in ("missing", "extra_forbidden") and loc[0] in KINDS
            else ""
        )
        # Of a setting that is missing pydantic's input is the whole section.
        got = "" if first["type"] == "missing" else f" (got {first['input']!r})"
        raise InputError(f"Profile {name!r}: {where}: {first['msg']}{got}{hint}.") from None


def _fill_pins(tree: dict) -> None:
    """Commits for the hub ids whose revision is null. What a server runs is not known here, so it gets none."""
    for section in ("model", "judge", "teacher"):
        settings = tree.get(section)
        ours = isinstance(settings, dict) and settings.get("via", "vllm") == "vllm"
        if ours and settings.get("revision") is None and (commit := pinned("models", settings.get("name"))):
            settings["revision"] = commit
    verifier = tree.get("eval", {}).get("model_verifier")
    if isinstance(verifier, str) and "@" not in verifier and (commit := pinned("models", verifier)):
        tree["eval"]["model_verifier"] = f"{verifier}@{commit}"
    _fill_benchmarks(tree.get("eval", {}))
    corpus = tree.get("corpus")
    hub = CORPUS_HUBS.get(corpus.get("name")) if isinstance(corpus, dict) else None
    if hub and corpus.get("path") is None and corpus.get("revision") is None:
        corpus["revision"] = pinned("datasets", hub)


def _fill_benchmarks(settings: dict) -> None:
    """Commits for the benchmarks that are read from the hub and have none."""
    if not (FOLDER / PINS).is_file() or settings.get("benchmark_folder") is not None:
        return
    from dereason_utils.hub_benchmarks import BENCHMARKS  # which imports this module

    given = list(settings.get("benchmark_commits", ()))
    without = set(settings.get("benchmarks", ())) & set(BENCHMARKS) - {entry.split("@")[0] for entry in given}
    found = {name: pinned("datasets", BENCHMARKS[name].hub) for name in sorted(without)}
    settings["benchmark_commits"] = [
        *given,
        *(f"{name}@{commit}" for name, commit in found.items() if commit),
    ]


def _unpack(tree, sources, section, settings, file):
    entries = settings if isinstance(settings, dict) else {None: settings}
    for key, entry in entries.items():
        dotted = section if key is None else f"{section}.{key}"
        if not (isinstance(entry, tuple) and len(entry) == 2):
            raise InputError(
                f"{file}: {dotted} has no source tag; write !paper, !gr or !ours before its value."
            )
        value, sources[dotted] = entry
        if key is None:
            tree[section] = value
        else:
            tree.setdefault(section, {})[key] = value


def _override(tree, sources, key, value):
    if isinstance(value, dict) and isinstance(tree.get(key), dict):
        for name in [name for name in sources if name.startswith(f"{key}.")]:
            del sources[name]
        tree[key] = dict(value)
        sources.update({f"{key}.{name}": "ours" for name in value})
        return
    if key not in sources:
        raise InputError(
            f"Unknown setting {key!r} in overrides: the profile has {', '.join(sorted(sources))}."
        )
    section, _, name = key.partition(".")
    if name:
        tree[section][name] = value
    else:
        tree[section] = value
    sources[key] = "ours"


def stage_settings(profile: Profile, stage: str) -> dict:
    """The part of a profile that a stage's result depends on, ready for JSON."""
    if stage not in STAGE_SECTIONS:
        raise InputError(f"Unknown stage {stage!r}: choose one of {', '.join(STAGES)}.")
    return profile.model_dump(mode="json", include=set(STAGE_SECTIONS[stage]))


def settings_table(profile: Profile) -> list[tuple[str, object, str]]:
    """Rows (setting, value, source) in the profile's order, for the first cell of a notebook."""
    tree = profile.model_dump()
    return [(key, _value(tree, key), source) for key, source in profile.sources.items()]


def _value(tree, key):
    section, _, name = key.partition(".")
    return tree[section][name] if name else tree[section]
