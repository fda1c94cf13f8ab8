"""What SFT and GRPO share: checkpoints that are whole, progress lines, and stopping on NaN."""

import hashlib
import json
import math
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import pandas as pd

from dereason_utils import disk, progress
from dereason_utils.errors import InputError

_WHOLE = "dereason_whole.json"  # written into a checkpoint after everything else
TRAINED = "trained"  # where several processes put the trained weights, below their checkpoints
FSDP = Path(__file__).with_name("fsdp.json")  # how they share the policy
_MADE_FROM = "dereason_made_from.txt"  # fingerprint of what a folder's checkpoints depend on


def checkpoint_settings(seed: int, save_every: int, bfloat16: bool) -> dict:
    """The TrainingArguments that every stage sets alike.

    Set even where they repeat TRL's defaults: Unsloth changes some of those on a GPU and none on a CPU, and the
    profile must mean the same on both (tests/test_trainer_settings.py).
    """
    import torch

    gpu, sharded = torch.cuda.is_available(), world_size() > 1
    return {
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log the mean of earlier losses instead, and nobody would stop
        "save_strategy": "steps",
        "save_steps": save_every,
        "save_total_limit": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not gpu,
        "bf16": bfloat16
        or gpu,  # autocast; trainable adapters, and weights when all are trained, stay in float32
        "fp16": False,
        "gradient_checkpointing": gpu and not sharded,  # FSDP has its own
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": gpu,
        "remove_unused_columns": False,
        "auto_find_batch_size": False,
        "eval_accumulation_steps": 1,
        "include_num_input_tokens_seen": "no",
        "torch_empty_cache_steps": None,
        "ddp_find_unused_parameters": False,  # on a CPU, where accelerate copies the policy instead of sharding it
        "fsdp": sharded or None,
        "fsdp_config": str(FSDP) if sharded else None,
    }


def world_size() -> int:
    """How many processes train this model together; the launcher tells each (sharded.py)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def resume_point(folder: Path, **facts) -> str | None:
    """The checkpoint to go on from, or None for a fresh start; `keep_own` says what the facts are for."""
    with one_process_first():
        keep_own(folder, **facts)
    return last_whole_checkpoint(folder)


def one_process_first():
    """Within the block the main one of several training processes is alone, and the others follow it."""
    if world_size() == 1:
        return nullcontext()
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available()).main_process_first()


def keep_own(folder: Path, **facts) -> None:
    """Empty `folder` unless what it holds was made from the same facts: else two experiments would be mixed.

    facts: everything that the unfinished work depends on (code, settings, data, seed, model).
    """
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    mark = folder / _MADE_FROM
    if not mark.is_file() or mark.read_text() != fingerprint:
        shutil.rmtree(folder, ignore_errors=True)
        disk.write_text(mark, fingerprint)


def train_to_end(trainer, start: str | None) -> list[dict]:
    """Train to the end, from the checkpoint `start` if there is one; returns the log of all steps since the first.

    A training that was stopped after its last step is only loaded: the trainer would add a step to it. Several
    processes cannot load before they train; they do the steps since the checkpoint before again, and save the weights.
    """
    from transformers import TrainerState

    if start is not None:
        state = TrainerState.load_from_json(str(Path(start) / "trainer_state.json"))
        if state.global_step >= state.max_steps:
            if world_size() == 1:
                trainer._load_from_checkpoint(start)
                return state.log_history
            start = last_whole_checkpoint(Path(start).parent, before=state.global_step)
    with disk.errors(Path(trainer.args.output_dir) / "checkpoint"):
        trainer.train(resume_from_checkpoint=start)
        if world_size() > 1:
            trainer.save_model(str(Path(trainer.args.output_dir) / TRAINED))
    return trainer.state.log_history


def draw_order_by_epoch(sampler, seed: int):
    """Let a sampler's order depend on (seed, epoch) alone, and return it.

    The libraries' samplers draw epoch after epoch from one stream of random numbers. A run that goes on within a later
    epoch would draw from the stream's beginning, and see the first epoch's order again.
    """
    import torch

    sampler.generator = torch.Generator()
    sampler.set_epoch = lambda epoch: sampler.generator.manual_seed(seed * 1_000_003 + epoch)
    return sampler


def share_out(steps: int, phases: int) -> list[int]:
    """`steps` shared evenly among so many phases, the first ones getting what is left over."""
    if steps < phases:
        raise InputError(f"{steps} steps are too few for {phases} phases: raise grpo.steps.")
    return [steps // phases + (phase < steps % phases) for phase in range(phases)]


def one_after_the_other(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The phases' tables (column `step`, from 1 in each) as one: `step` counts on, and `phase` says which phase it was."""
    done = 0
    joined = []
    for phase, table in enumerate(tables, 1):
        joined.append(table.assign(step=table["step"] + done, phase=phase))
        done += int(table["step"].max())
    return pd.concat(joined, ignore_index=True)


def write_curve(folder: Path, curve: pd.DataFrame) -> list[str]:
    """Write a training curve as steps.csv and its times, the columns named ..._s, as timing.csv; returns the names.

    Apart, because the same seed gives the same steps.csv byte for byte, interrupted or not, and never the same times.
    """
    times = [name for name in curve.columns if name.endswith("_s")]
    disk.write_table(folder / "steps.csv", curve.drop(columns=times))
    disk.write_table(folder / "timing.csv", curve[["step", *times]])
    return ["steps.csv", "timing.csv"]


def trainable_hash(model) -> str:
    """Hash of the weights that training will change, as they are now."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            digest.update(name.encode())
            digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def model_facts(model) -> tuple[str, str, str]:
    """What a folder's checkpoints depend on of the model: the name of its files, its precision, its trainable weights.

    A GPU's policy has none of those when it only samples (vLLM holds the weights): its files count instead.
    """
    if model.device.type == "cuda" and not hasattr(model, "peft_config"):
        return model.name_or_path, str(model.dtype), disk.digest(Path(model.name_or_path))[0]
    return model.name_or_path, str(model.dtype), trainable_hash(model)


def discard(folder: Path) -> None:
    """Remove the checkpoints of a training that is done and saved."""
    shutil.rmtree(folder, ignore_errors=True)


def last_whole_checkpoint(folder: Path, before: int | None = None) -> str | None:
    """The newest checkpoint whose writing had finished, or None. Half-written and cut ones are never chosen.

    before: only checkpoints of earlier steps.
    """
    whole = [mark.parent for mark in folder.glob(f"checkpoint-*/{_WHOLE}") if _is_uncut(mark)]
    whole = [path for path in whole if before is None or int(path.name.split("-")[1]) < before]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _is_uncut(mark: Path) -> bool:
    """Whether the checkpoint's files still have the sizes that its mark gives them."""
    files = json.loads(mark.read_text()).get("bytes", {})
    return all(
        (mark.parent / name).is_file() and (mark.parent / name).stat().st_size == size
        for name, size in files.items()
    )


def mark_whole():
    """A trainer callback that marks each checkpoint once all its files are on disk."""
    from transformers import TrainerCallback

    class MarkWhole(TrainerCallback):
        def on_save(self, args, state, control, **_):
            with one_process_first():  # the others have written their part before they come here
                pass
            if not state.is_world_process_zero:
                return
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            disk.sync_folder(checkpoint)  # the mark must not reach the disk before what it vouches for
            sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.is_file()}
            disk.write_text(checkpoint / _WHOLE, json.dumps({"step": state.global_step, "bytes": sizes}))

    return MarkWhole()


def progress_callback(label: str, shown: tuple[str, ...]):
    """A trainer callback that prints one plain line of progress now and then, with the named metrics."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        bar = None

        def on_log(self, args, state, control, logs=None, **_):
            if not state.is_world_process_zero:
                return
            if self.bar is None:
                self.bar = progress.Bar(state.max_steps, label, start=max(0, state.global_step - 1))
            facts = "  ".join(
                f"{name} {logs[name]:.3f}" for name in shown if logs and logs.get(name) is not None
            )
            self.bar.update(state.global_step, facts)

    return Progress()


def step_timer():
    """A trainer callback that logs each step's seconds as step_s (GRPOTrainer has its own clock)."""
    from transformers import TrainerCallback

    class StepTimer(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            self.began = time.perf_counter()

        def on_log(self, args, state, control, logs=None, **_):
            if "loss" in (logs or {}):
                state.log_history[-1]["step_s"] = time.perf_counter() - self.began

    return StepTimer()


def stop_on_nan():
    """A trainer callback that ends training as soon as a loss, gradient or reward is no number.

    A step is logged before its checkpoint is written, so what it broke is never saved.
    """
    from transformers import TrainerCallback

    class StopOnNan(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            for name in ("loss", "grad_norm", "reward"):
                value = (logs or {}).get(name)
                if value is not None and not math.isfinite(value):
                    raise InputError(
                        f"{name} is {value} at step {state.global_step}: lower the learning rate; the last whole "
                        "checkpoint is kept."
                    )

    return StopOnNan()
