"""What a profile will need, before any money is spent: memory, tokens, hours, cost, and what is missing here.

    python -m dereason_utils.plan --profile single_gpu [--preset 48gb] [--card-memory 48] [--price 2.0] [-o NAME=VALUE]

All numbers are estimates of `needs.py`, and are printed as such with the assumptions behind them. What cannot fit is
refused with exit status 1 and the name of the setting to change.
"""

import argparse
import importlib.metadata
import platform
import shutil
import sys
from collections.abc import Iterator

import pandas as pd
import psutil

from dereason_utils import hub_benchmarks, needs, paths, profiles, workflow
from dereason_utils import memory_model as memory
from dereason_utils.doctor import GPU_LOCK, driver_cuda, found_gpus, pins
from dereason_utils.errors import InputError, command
from dereason_utils.needs import GB, Machine, Need
from dereason_utils.run import parse_overrides

PRICE = 2.0  # per card and hour: an assumption, see --price
SHOWN = ("torch", "transformers", "trl", "unsloth", "vllm")
CUDA = "cuda-toolkit"  # the lock's name for the CUDA that its torch is built for


def machine_for(profile: profiles.Profile, card_memory: float | None, preset: str | None = None) -> Machine:
    """The card that is asked for, else the one that is here, else the preset's, else the computer's own memory.

    So many cards as the profile has processes. Raises InputError for a profile that needs a GPU where there is none of
    these, and for one that needs more of them than are here.
    """
    gpus, cards = found_gpus(), profile.hardware.processes
    if card_memory is None and gpus:
        if len(gpus) < cards:
            raise InputError(
                f"Profile {profile.name} trains on {cards} GPUs and {len(gpus)} are found here: set "
                "hardware.processes, or say with --card-memory what to plan for."
            )
        card_memory = gpus[0][1] / GB
    if card_memory is None and preset:
        card_memory = float(preset.removesuffix("gb"))
    if card_memory is None and profiles.for_gpus(profile.name):
        raise InputError(
            f"Profile {profile.name} needs a GPU and none is found here: say what to plan for, "
            "--preset 24gb or --card-memory 24 (make plan PRESET=24gb, or CARD_MEMORY=24)."
        )
    if card_memory is None:
        memory = psutil.virtual_memory().available / profile.steps_at_once
        return Machine(needs.CPU, 1, memory, gpu=False)
    fits = [card for card in needs.CARDS if card.memory_gb <= card_memory * 1.1] or [needs.CARDS[0]]
    return Machine(fits[-1], cards, card_memory * GB * needs.USABLE, gpu=True)


def surroundings(profile: profiles.Profile, machine: Machine) -> Iterator[tuple[str, str]]:
    """(what, finding) of what memory and time do not show."""
    gpus = found_gpus()
    yield "GPU", "; ".join(f"{name}, {size / GB:.0f} GB" for name, size in gpus) or "none found here"
    yield "planned for", f"{machine.cards} x {machine.card.name}, {machine.memory / GB:.1f} GB usable each"
    yield "host memory", f"{psutil.virtual_memory().available / GB:.1f} GB available"
    root = next(path for path in (paths.results_root(), *paths.results_root().parents) if path.exists())
    yield (
        "disk",
        f"{shutil.disk_usage(root).free / GB:.1f} GB free, {disk_need(profile, machine.gpu) / GB:.1f} GB estimated",
    )
    if names := sorted({name for name, _ in gated(profile)}):
        yield "gated access", f"{', '.join(names)}: {'a token is set' if _token() else 'no token found'}"
    if machine.gpu:
        locked = gpu_pins()
        if cuda := driver_cuda():
            yield "driver", f"runs CUDA {cuda}; torch is built for {_release(locked[CUDA])}"
        shown = ", ".join(f"{name} {locked[name]}" for name in SHOWN)
        yield "versions", f"{shown}: to be installed, from {GPU_LOCK}"
    else:
        yield "versions", ", ".join(f"{name} {_version(name)}" for name in SHOWN)
    yield "python", platform.python_version()


def disk_need(profile: profiles.Profile, gpu: bool) -> float:
    """Bytes on disk: the models that are fetched, every training's policy, and one training's checkpoints.

    A policy is an adapter on a CPU, and 16-bit weights on a GPU (`models.save_policy`). Checkpoints hold what is trained
    and two moments of it: two are kept, and the third is written before the first goes. Several processes
    hand the policy over in 16 bits and its weights back in 32 (sharded.py).
    """
    shape = needs.shape_of(profile.model.name, profile.model.revision)
    trained = memory.gradients(shape, needs.precision_of(profile.model, gpu))
    fetched = {(profile.model.name, profile.model.revision): shape.parameters}
    for asked in (profile.judge, profile.teacher):
        if asked.via == "vllm":
            of = (asked.name, asked.revision)
            fetched[of] = needs.shape_of(*of).parameters
    if profile.eval.model_verifier:  # its config is not asked for: taken to be as large as the policy
        fetched[profile.eval.model_verifier, None] = shape.parameters
    steps = [key.stage for key in workflow.steps(profile)]
    trainings = steps.count("03_sft") + steps.count("04_grpo")
    policy = memory.BFLOAT16 * shape.parameters if gpu else trained
    handed = policy + trained if profile.hardware.processes > 1 else 0
    return memory.BFLOAT16 * sum(fetched.values()) + trainings * policy + 3 * 3 * trained + handed


def gated(profile: profiles.Profile) -> Iterator[tuple[str, str]]:
    """(benchmark, the setting of its folder) of each gated benchmark that a stage reads from the hub.

    01 takes the problems of all benchmarks out of a web corpus, whichever 05 evaluates.
    """
    secret = [name for name, benchmark in hub_benchmarks.BENCHMARKS.items() if benchmark.secret]
    if isinstance(profile.corpus, profiles.WebCorpus) and profile.corpus.benchmark_folder is None:
        yield from ((name, "corpus.benchmark_folder") for name in secret)
    if profile.eval.benchmark_folder is None:
        yield from ((name, "eval.benchmark_folder") for name in secret if name in profile.eval.benchmarks)


def gpu_pins() -> dict[str, str]:
    return pins((paths.REPO / GPU_LOCK).read_text(encoding="utf-8"))


def _release(version: str) -> str:
    """'13.0' of '13.0.3.0'."""
    return ".".join(version.split(".")[:2])


def _token() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# ---- the report ----


def table(profile, rows: list[Need], machine: Machine, price: float) -> pd.DataFrame:
    """One row per stage: steps, GB by part and in all, tokens and hours of all its steps, cost."""
    names = (
        "weights",
        "reference",
        "adapters",
        "gradients",
        "optimizer",
        "activations",
        "logits",
        "KV cache",
    )
    made = []
    for need in rows:
        row = {"stage": need.stage, "steps": need.steps}
        row |= {name: f"{need.parts.get(name, 0) / GB:.2f}" for name in names}
        took = needs.hours(need, profile, machine) * need.steps
        row |= {
            "GB": f"{needs.required(need, machine) / GB:.1f}",
            "M tokens": f"{(need.trained + need.drawn) * need.steps / 1e6:.1f}",
            "hours": took,
            "cost": took * machine.cards * price * machine.gpu,
        }
        made.append(row)
    return pd.DataFrame(made)


def report(profile: profiles.Profile, machine: Machine, price: float) -> str:
    """The whole plan as text."""
    shown = table(profile, needs.needs(profile, machine), machine, price)
    total = shown[["hours", "cost"]].sum()
    lines = [
        f"Plan of profile {profile.name}: {len(workflow.steps(profile))} steps. All numbers are estimates.",
        "",
    ]
    lines += [shown.to_string(index=False, float_format=lambda value: f"{value:.1f}"), ""]
    lines.append(
        "GB: of one step and card, its largest moment; hours and cost: of all steps, one after the other, every card paid for."
    )
    cost = f", {total['cost']:.0f} at {price:g} per card and hour (assumed; --price)" if machine.gpu else ""
    lines.append(f"In all {total['hours']:.1f} hours{cost}.")
    lines.append(
        f"Assumed by us: {needs.TRAINING_SHARE:.0%} of {machine.card.operations / 1e12:g} TFLOP/s in training, "
        f"{needs.DECODING_SHARE:.0%} of {machine.card.bandwidth / 1e12:g} TB/s in decoding, completions "
        f"{needs.COMPLETION_SHARE:.0%} of their limit, {needs.EASY_SHARE:.0%} of the problems easy."
    )
    lines += ["", *(f"{what:<13} {finding}" for what, finding in surroundings(profile, machine))]
    return "\n".join(lines)


@command
def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m dereason_utils.plan", description="Memory, hours and cost of a profile."
    )
    parser.add_argument("--profile", required=True, help=", ".join(profiles.names()))
    parser.add_argument(
        "--card-memory", type=float, metavar="GB", help="plan for such a card, wherever this runs"
    )
    parser.add_argument(
        "--cards", type=int, help="how many of them (default: the profile's hardware.processes)"
    )
    parser.add_argument("--preset", help="of single_gpu: a card of that memory and its settings")
    parser.add_argument("--price", type=float, default=PRICE, help=f"per card and hour (assumed: {PRICE:g})")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args(arguments)
    asked = {"preset": options.preset, "hardware.processes": options.cards}
    overrides = {name: value for name, value in asked.items() if value is not None}
    profile = profiles.load(options.profile, overrides | parse_overrides(options.override))
    machine = machine_for(profile, options.card_memory, options.preset)
    print(report(profile, machine, options.price))
    needs.refuse(profile, needs.needs(profile, machine), machine)
    check_disk(profile, machine.gpu)
    check_access(profile)
    check_driver(machine)


def check_disk(profile: profiles.Profile, gpu: bool) -> None:
    root = next(path for path in (paths.results_root(), *paths.results_root().parents) if path.exists())
    free, wanted = shutil.disk_usage(root).free, disk_need(profile, gpu)
    if free < wanted:
        raise InputError(
            f"{root} has {free / GB:.1f} GB free and the run needs about {wanted / GB:.1f} GB, models from "
            "the hub included: free some, or choose other disks with DEREASON_RESULTS and HF_HOME."
        )


def check_access(profile: profiles.Profile) -> None:
    """Raise InputError when a benchmark is gated and neither a token nor local files are there."""
    for name, setting in gated(profile):
        if not _token():
            raise InputError(
                f"{hub_benchmarks.BENCHMARKS[name].hub} is gated and no token is found: "
                f"{hub_benchmarks.access(name, setting)}."
            )


def check_driver(machine: Machine) -> None:
    """Raise InputError when this machine's driver cannot run the CUDA that the GPU lock's torch is built for.

    A driver runs all of its own major release, later minor ones too (NVIDIA's "minor version compatibility").
    """
    cuda = driver_cuda() if machine.gpu else None
    wanted = gpu_pins()[CUDA]
    if cuda and int(cuda.split(".")[0]) < int(wanted.split(".")[0]):
        raise InputError(
            f"The driver runs CUDA {cuda} at most and the torch of {GPU_LOCK} is built for {_release(wanted)}: update "
            "the driver (nvidia-smi names it), or rent a machine with a newer one."
        )


if __name__ == "__main__":
    sys.exit(main())
