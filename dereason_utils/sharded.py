"""Training all parameters in several processes, one per GPU (profile `paper`).

The notebook's kernel writes the policy and the stage's data to disk and starts the processes; each of them calls the
same `sft.train` or `grpo.train`, in which accelerate shards the policy (FSDP, fsdp.json). The trained weights
come back into the kernel's model, so that a notebook's cells are the same for one process and for eight. On a GPU the
weights are bfloat16 between the stages and float32 while they train. Unsloth is not part of it.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from dereason_utils import disk, training
from dereason_utils.errors import InputError
from dereason_utils.profiles import Hardware


def run(stage: str, model, tokenizer, hardware: Hardware, folder: Path, job: dict) -> pd.DataFrame:
    """Train `model` in `hardware.processes` processes and return the curve of `sft.train` or `grpo.train`.

    stage: the module, sft or grpo. folder: where that training keeps its checkpoints. job: its other arguments, ready for JSON.
    Raises InputError when the processes fail; their own messages are above it.
    """
    import torch

    desk = folder.with_name(f"{folder.name}_job")
    shutil.rmtree(desk, ignore_errors=True)
    device = model.device
    if device.type == "cuda":  # the processes need the memory
        model.to("cpu", torch.bfloat16)
        torch.cuda.empty_cache()
    model.save_pretrained(desk / "policy", safe_serialization=True)
    tokenizer.save_pretrained(desk / "policy")
    facts = {"folder": str(folder), "hardware": hardware.model_dump(), **job}
    disk.write_text(desk / "job.json", json.dumps(facts))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(hardware.processes),
    ]
    command += ["-m", f"dereason_utils.{stage}", str(desk)]
    done = subprocess.run(command, check=False)
    if done.returncode or not (desk / "curve.parquet").is_file():
        raise InputError(
            f"Training in {hardware.processes} processes failed (exit status {done.returncode}; the messages above say "
            "why): mend that and give the same command again; the last whole checkpoint is kept."
        )
    load_weights(model, folder / training.TRAINED)
    model.to(device)
    curve = pd.read_parquet(desk / "curve.parquet")
    shutil.rmtree(desk)
    return curve


def load_weights(model, folder: Path) -> None:
    """Put the weights of a folder's safetensors files into the model. Raises InputError when they do not fit."""
    from safetensors.torch import load_file

    missing = set(dict(model.named_parameters()))
    for path in sorted(folder.glob("*.safetensors")):
        result = model.load_state_dict(load_file(path), strict=False)
        if result.unexpected_keys:
            raise InputError(f"{path} does not fit the policy ({result.unexpected_keys[0]}): train again.")
        missing &= set(result.missing_keys)
    if missing - _tied(model):
        raise InputError(f"{folder} lacks weights ({min(missing)}): train again.")


def _tied(model) -> set[str]:
    """Parameters that are another one's, so that no file holds them."""
    return {"lm_head.weight"} if model.config.tie_word_embeddings else set()


def work(train: Callable[..., pd.DataFrame], settings: type) -> None:
    """One of the processes: load the policy, call `train`, and (the first one) write its curve.

    settings: the profile's section that `train` takes.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    desk = Path(sys.argv[1])
    job = json.loads((desk / "job.json").read_text())
    job |= {
        "folder": Path(job["folder"]),
        "hardware": Hardware(**job["hardware"]),
        "settings": settings(**job["settings"]),
    }
    if "problems" in job:
        job["problems"] = pd.DataFrame(job["problems"])
    model = AutoModelForCausalLM.from_pretrained(desk / "policy", dtype=torch.float32, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(desk / "policy")
    curve = train(model, tokenizer, **job)
    if os.environ["RANK"] == "0":
        disk.write_table(desk / "curve.parquet", curve)
