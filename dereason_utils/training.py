"""What SFT and GRPO share: checkpoints that are whole, progress lines, and stopping on NaN."""

import hashlib
import json
import math
import shutil
from pathlib import Path

from dereason_utils import manifest, progress

_WHOLE = "dereason_whole.json"  # written into a checkpoint after everything else
_MADE_FROM = "dereason_made_from.txt"  # fingerprint of what a folder's checkpoints depend on


def checkpoint_settings(seed: int, save_every: int, bfloat16: bool) -> dict:
    """The TrainingArguments that every stage sets alike."""
    import torch

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
        "use_cpu": not torch.cuda.is_available(),
        "bf16": bfloat16,  # autocast; trainable adapters stay in float32
        "gradient_checkpointing": torch.cuda.is_available(),
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False,
    }


def resume_point(folder: Path, **facts) -> str | None:
    """The checkpoint to go on from, or None for a fresh start.

    facts: everything that the training depends on (settings, data, seed, first weights). Checkpoints in `folder` that
    were made from other facts are removed: going on from them would mix two experiments.
    """
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
    mark = folder / _MADE_FROM
    if not mark.is_file() or mark.read_text() != fingerprint:
        shutil.rmtree(folder, ignore_errors=True)
        manifest.write_text(mark, fingerprint)
    return last_whole_checkpoint(folder)


def trainable_hash(model) -> str:
    """Hash of the weights that training will change, as they are now."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            digest.update(name.encode())
            digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def discard(folder: Path) -> None:
    """Remove the checkpoints of a training that is done and saved."""
    shutil.rmtree(folder, ignore_errors=True)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose writing had finished, or None. Half-written and cut ones are never chosen."""
    whole = [mark.parent for mark in folder.glob(f"checkpoint-*/{_WHOLE}") if _is_uncut(mark)]
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
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            sizes = {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.is_file()}
            manifest.write_text(checkpoint / _WHOLE, json.dumps({"step": state.global_step, "bytes": sizes}))

    return MarkWhole()


def progress_callback(label: str, shown: tuple[str, ...]):
    """A trainer callback that prints one plain line of progress now and then, with the named metrics."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        bar = None

        def on_log(self, args, state, control, logs=None, **_):
            if self.bar is None:
                self.bar = progress.Bar(state.max_steps, label, start=max(0, state.global_step - 1))
            facts = "  ".join(
                f"{name} {logs[name]:.3f}" for name in shown if logs and logs.get(name) is not None
            )
            self.bar.update(state.global_step, facts)

    return Progress()


def stop_on_nan():
    """A trainer callback that ends training as soon as a loss, gradient or reward is no number.

    A step is logged before its checkpoint is written, so what it broke is never saved.
    """
    from transformers import TrainerCallback

    from dereason_utils.errors import InputError

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
