"""Look up today's commits of every hub id that a profile, a benchmark or the verifier names, and write them down.

    python -m dereason_utils.pins        (or `make pins`)

`profiles.load` fills a null revision from the file. What it has already stays as it is, so that a study keeps its models and
data: delete a line to have it looked up again.
"""

import json
import os
import sys

from dereason_utils import disk, hub_benchmarks, profiles
from dereason_utils.errors import InputError, command, first_line

VERIFIER = "TIGER-Lab/general-verifier"  # arXiv 2505.14652; for eval.model_verifier


def hub_ids() -> dict[str, list[str]]:
    """Every hub id by kind, 'models' and 'datasets'; local folders and embedded models are none."""
    models = {VERIFIER}
    for name in profiles.names():
        profile = profiles.load(name)
        sections = (profile.model, profile.judge, profile.teacher)
        models |= {section.name for section in sections if hasattr(section, "name")}
    datasets = {benchmark.hub for benchmark in hub_benchmarks.BENCHMARKS.values()}
    return {
        "models": sorted(name for name in models if "/" in name and not os.path.isdir(name)),
        "datasets": sorted(datasets | set(profiles.CORPUS_HUBS.values())),
    }


def update() -> list[str]:
    """Add what pins.json lacks; returns the ids that could not be looked up, each with the reason.

    Raises InputError when not a single commit was found.
    """
    import httpx  # huggingface_hub's own client: its errors come through
    from huggingface_hub import HfApi

    path, hub = profiles.FOLDER / profiles.PINS, HfApi()
    pins = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    asked, failed = 0, []
    for kind, ids in hub_ids().items():
        for hub_id in ids:
            if hub_id in pins.setdefault(kind, {}):
                continue
            asked += 1
            try:
                commit = hub.repo_info(hub_id, repo_type=kind.removesuffix("s"), timeout=20).sha
            except (OSError, httpx.HTTPError) as error:  # no network, gated, renamed
                failed.append(f"{hub_id} ({first_line(error)})")
                continue
            pins[kind][hub_id] = commit
            print(f"{hub_id:<40} {commit}")
    if asked and len(failed) == asked:
        raise InputError(
            f"No commit could be looked up, first {failed[0]}: check the network and HF_ENDPOINT, or copy {path.name} "
            "from a machine that reaches the hub."
        )
    disk.write_text(path, json.dumps(pins, indent=1, sort_keys=True) + "\n")
    return failed


@command
def main() -> int:
    failed = update()
    for line in failed:
        print(f"Not found: {line}: accept its terms and set HF_TOKEN if it is gated.", file=sys.stderr)
    print(
        f"{profiles.FOLDER / profiles.PINS} is up to date; commit it, so that every run names the same commits."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
