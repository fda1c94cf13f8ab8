"""Profiles: the only home of every number of the experiment.

A profile is a YAML file in this folder. Each value carries a tag that says where it comes from:
`!paper` (DeReason, arXiv 2603.11193), `!gr` (General-Reasoner, arXiv 2505.14652) or `!ours` (the paper is silent or
the scale forces another value). `load` checks names, types and ranges (sections.py); `Profile.sources` keeps the tags.
Where a profile leaves the revision of a hub id open, `load` takes it from pins.json, which `make pins` writes. A profile
that begins with `like: <another>` has that one's sections and values but for those that it gives itself.
"""

import itertools
import json
from pathlib import Path
from typing import Literal

import pydantic
import yaml

from dereason_utils.errors import InputError
from dereason_utils.profiles.sections import (  # noqa: F401 (other modules take the sections from here)
    BENCHMARKS,
    KINDS,
    Corpus,
    Eval,
    Grpo,
    Hardware,
    Instruct,
    Judge,
    MiniStem,
    Model,
    ModelJudge,
    Profile,
    Sft,
    WebCorpus,
    is_commit,
)

FOLDER = Path(__file__).parent
PINS = "pins.json"  # in FOLDER: {"models": {hub id: commit}, "datasets": {hub id: commit}}
CORPUS_HUBS = {
    "webinstruct_verified": "TIGER-Lab/WebInstruct-verified",
    "webscale_rl": "Salesforce/Webscale-RL",
}
SOURCES = ("paper", "gr", "ours")
STAGES = ("01_score", "02_split", "03_sft", "04_grpo", "05_eval", "06_figures")
# What each stage's result depends on: a changed evaluation number does not retrain.
STAGE_SECTIONS = {
    "01_score": ("model", "corpus", "judge", "pass_rate", "sft"),
    "02_split": ("corpus", "split", "teacher"),
    "03_sft": ("model", "hardware", "sft"),
    "04_grpo": ("model", "hardware", "grpo"),
    "05_eval": ("model", "hardware", "eval", "split"),
    "06_figures": ("arms", "seeds", "other_seeds"),
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


def files(name: str) -> list[Path]:
    """The profile's file, after that of the profile it is like. Raises InputError for an unknown profile."""
    if name not in names():
        raise InputError(f"Unknown profile {name!r}: choose one of {', '.join(names())}.")
    path = FOLDER / f"{name}.yaml"
    base = yaml.load(path.read_text(encoding="utf-8"), _Loader).get("like")
    return [*(files(base) if base else []), path]


def about(name: str) -> str:
    """What a profile is for: the first sentence of its file."""
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = " ".join(
        line.removeprefix("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines)
    )
    return header.partition(". ")[0].removesuffix(".") + "."


def presets(name: str) -> dict[str, dict]:
    """The profile's presets by name: for each, dotted setting -> (value, source). One of them may be empty.

    A profile that is like another has that one's presets too, with the values that its own of the same name give.
    """
    found: dict[str, dict] = {}
    for path in files(name):
        own = yaml.load(path.read_text(encoding="utf-8"), _Loader).get("presets") or {}
        found |= {preset: found.get(preset, {}) | (values or {}) for preset, values in own.items()}
    return found


def for_gpus(name: str) -> bool:
    """Whether a profile is single_gpu or paper, or like one of them."""
    return not {path.stem for path in files(name)}.isdisjoint(("single_gpu", "paper"))


def load(name: str, overrides: dict[str, object] | None = None) -> Profile:
    """Read a profile and replace single values, e.g. `load("cpu", {"grpo.steps": 4})`.

    A whole section is replaced by a dict: `load("smoke", {"teacher": {"via": "reference", "slip": 0.1}})`. The override
    `preset` takes all values of one of the profile's presets, e.g. `load("single_gpu", {"preset": "48gb"})`; other
    overrides come after it. Raises InputError for an unknown profile, preset or name and for a value of the wrong type
    or out of range.
    """
    tree, sources, overrides = {"name": name}, {}, dict(overrides or {})
    for path in files(name):
        for section, settings in yaml.load(path.read_text(encoding="utf-8"), _Loader).items():
            if section not in ("presets", "like"):
                _unpack(tree, sources, section, settings, path.name)
    if (preset := overrides.pop("preset", None)) is not None:
        _take_preset(tree, sources, preset, presets(name), f"{name}.yaml")
    for key, value in overrides.items():
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
    from dereason_utils import hub_benchmarks  # which imports this module

    given = list(settings.get("benchmark_commits", ()))
    without = set(settings.get("benchmarks", ())) & set(hub_benchmarks.BENCHMARKS) - {
        entry.split("@")[0] for entry in given
    }
    found = {name: pinned("datasets", hub_benchmarks.BENCHMARKS[name].hub) for name in sorted(without)}
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


def _take_preset(tree, sources, preset, known, file):
    if preset not in known:
        choices = ", ".join(known) or "none"
        raise InputError(f"Unknown preset {preset!r}: {file} has {choices}.")
    for key, entry in known[preset].items():
        if not (isinstance(entry, tuple) and len(entry) == 2):
            raise InputError(
                f"{file}: {key} of preset {preset} has no source tag; write !paper, !gr or !ours before its value."
            )
        _override(tree, sources, key, entry[0])
        sources[key] = entry[1]


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


def replaced(profile: Profile, stage: str) -> dict:
    """What a stage reads and overrides have changed, section by section: overrides that give the same settings again."""
    own, files = (stage_settings(found, stage) for found in (profile, load(profile.name)))
    return {section: value for section, value in own.items() if value != files[section]}


def settings_table(profile: Profile) -> list[tuple[str, object, str]]:
    """Rows (setting, value, source) in the profile's order, for the first cell of a notebook."""
    tree = profile.model_dump()
    return [(key, _value(tree, key), source) for key, source in profile.sources.items()]


def _value(tree, key):
    section, _, name = key.partition(".")
    return tree[section][name] if name else tree[section]
