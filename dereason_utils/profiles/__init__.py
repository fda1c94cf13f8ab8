"""Profiles: the only home of every number of the experiment.

A profile is a YAML file in this folder. Each value carries a tag that says where it comes from:
`!paper` (DeReason, arXiv 2603.11193), `!gr` (General-Reasoner, arXiv 2505.14652) or `!ours` (the paper is silent or
the scale forces another value). `load` checks names, types and ranges; `Profile.sources` keeps the tags.
"""

import re
from pathlib import Path
from typing import Literal

import pydantic
import yaml
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from dereason_utils.errors import InputError

FOLDER = Path(__file__).parent
SOURCES = ("paper", "gr", "ours")
STAGES = ("01_score", "02_split", "03_sft", "04_grpo", "05_eval", "06_figures")
Share = pydantic.confloat(ge=0, le=1)


class Section(pydantic.BaseModel):
    """A group of settings; unknown names are refused."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")


class Model(Section):
    """The policy. `name` is 'smollm2-135m-instruct' (embedded), 'tiny' (trained here in seconds) or a hub id."""

    name: str
    revision: str | None
    max_length: PositiveInt  # tokens of prompt and completion together
    bfloat16: bool
    load_in_4bit: bool
    full_finetuning: bool
    lora_rank: PositiveInt
    lora_alpha: PositiveInt
    attention: Literal[
        "grouped", "default"
    ]  # "grouped": our SDPA call without repeated keys (faster on a CPU)
    prompt_style: Literal["chat", "plain"]


class Corpus(Section):
    """The training problems. Steps are the inclusive range of true reasoning steps."""

    name: Literal["mini_stem"]
    families: Literal["all"] | tuple[str, ...]  # of mini_stem, such as "physics.segments"
    seed: NonNegativeInt
    train_size: PositiveInt
    validation_size: PositiveInt
    test_size: PositiveInt
    min_steps: PositiveInt
    max_steps: PositiveInt

    @pydantic.model_validator(mode="after")
    def _ordered(self):
        if self.min_steps > self.max_steps:
            raise ValueError("min_steps is above max_steps")
        return self


class Judge(Section):
    """Who rates reasoning intensity. The LLM judge always runs; `split_by` says whose rating 02 uses."""

    split_by: Literal["llm", "reference"]
    calibration_size: (
        NonNegativeInt  # rubric-labelled problems of held-out families; 0 = the judge is not tuned
    )
    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: PositiveFloat
    max_new_tokens: PositiveInt
    retries: NonNegativeInt


class Split(Section):
    """Problems rated at most `threshold` go to SFT, the others to RL (paper, section 2.2)."""

    threshold: int = Field(ge=1, le=4)


class Teacher(Section):
    """`slip` is the reference teacher's probability of a wrong step."""

    slip: Share


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


class Profile(Section):
    """All settings of one scale; `sources` maps each dotted name to 'paper', 'gr' or 'ours'."""

    name: str
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    arms: tuple[str, ...] = Field(min_length=1)
    canary: bool  # the first minute's check on a CPU too; on a GPU it always runs
    model: Model
    corpus: Corpus
    judge: Judge
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


# What each stage's result depends on: a changed evaluation number does not retrain.
STAGE_SECTIONS = {
    "01_score": ("model", "corpus", "judge", "sft"),
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


def names() -> list[str]:
    """The profiles that exist."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load(name: str, overrides: dict[str, object] | None = None) -> Profile:
    """Read a profile and replace single values, e.g. `load("cpu", {"grpo.steps": 4})`.

    Raises InputError for an unknown profile or name and for a value of the wrong type or out of range.
    """
    if name not in names():
        raise InputError(f"Unknown profile {name!r}: choose one of {', '.join(names())}.")
    path = FOLDER / f"{name}.yaml"
    tree, sources = {"name": name}, {}
    for section, settings in yaml.load(path.read_text(), _Loader).items():
        _unpack(tree, sources, section, settings, path.name)
    for key, value in (overrides or {}).items():
        _override(tree, sources, key, value)
    try:
        return Profile.model_validate({**tree, "sources": sources})
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "settings"
        raise InputError(f"Profile {name!r}: {where}: {first['msg']} (got {first['input']!r}).") from None


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
