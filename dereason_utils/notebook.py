"""What every notebook's first cells share: resolve the profile, print versions, open the step."""

import importlib.metadata
import os
import platform
import warnings

# Progress bars of the libraries would fill a saved notebook with frozen copies; must be set before they are imported.
os.environ.setdefault("TQDM_DISABLE", "1")
# `rollout_func` is marked experimental; TRL's pin is exact.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

warnings.filterwarnings("ignore", message="IProgress not found")  # plain text lines are wanted, not widgets

import pandas as pd

from dereason_utils import __version__, manifest, profiles, workflow

pd.set_option("styler.format.escape", "html")  # "x<y" is mathematics, and a scraped problem may hold markup

SHOWN = (
    "torch",
    "transformers",
    "trl",
    "peft",
    "unsloth",
    "vllm",
    "datasets",
    "math-verify",
    "pandas",
    "papermill",
)


def open_step(
    stage: str,
    profile: str,
    overrides: dict,
    arm: str | None = None,
    seed: int | None = None,
    need_bytes: int = 0,
) -> tuple[profiles.Profile, manifest.Step]:
    """Print versions and the stage's settings with their sources; return the settings and the opened step.

    Raises InputError for an unknown profile, arm, seed or override, before anything is written.
    """
    settings = profiles.load(profile, overrides)
    workflow.check(settings, workflow.StepKey(stage, arm, seed))
    installed = {d.name: d.version for d in importlib.metadata.distributions() if d.name in SHOWN}
    print(f"python {platform.python_version()}  dereason_utils {__version__}")
    print("  ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed))
    print(f"\n{manifest.label(stage, arm, seed)} of profile {profile}")
    sections = profiles.STAGE_SECTIONS[stage]
    for key, value, source in profiles.settings_table(settings):
        if key.partition(".")[0] in sections:
            print(f"  {key:<26} {value!s:<44} {source}")
    parameters = profiles.stage_settings(settings, stage)
    return settings, manifest.begin(stage, profile, arm, seed, parameters=parameters, need_bytes=need_bytes)
