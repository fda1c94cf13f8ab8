"""GRPO with a vLLM server in a process of its own (`hardware.server`, `trl vllm-serve`): rollouts back, weights over;
and the same server as an address that judge, teacher and verifier may have (`judge.via`).

The server, TRL's client and TRL's trainer are the real ones. One thing is not: TRL hands weights over by NCCL, between
GPUs; here they go through a folder that vLLM's worker reads again.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

# This folder is not called vllm: TRL and Unsloth would take it for the package.
pytest.importorskip(
    "vllm", reason="vLLM is not installed: `make test-vllm` runs these in an environment of its own"
)

import unsloth  # noqa: F401 (before transformers)

import pandas as pd  # isort: skip
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.generation.vllm_client import VLLMClient
from trl.scripts.vllm_serve import ScriptArguments, build_command

from dereason_utils import chat, gpu, grpo, mini_stem, profiles, tiny, vllm_sampling
from dereason_utils.errors import InputError

LENGTH = 24
GREEDY = chat.Decoding(max_tokens=LENGTH, temperature=0.0)
# vLLM's command line looks for its version under the GPU build's name, so the server is started as a module; where there
# are AMX tiles, the first product dies without the first line.
SERVE = """import runpy, torch
torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()
runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")"""

BARE = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}Solution:"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """`trl vllm-serve` of the base policy."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ScriptArguments(
        model=str(tiny.build("tiny")), host="127.0.0.1", port=port, gpu_memory_utilization=0.1, dtype="bfloat16",
        max_model_len=512, enforce_eager=True, log_level="warning",
    )  # fmt: skip
    command = build_command(arguments)
    template = tmp_path_factory.mktemp("template") / "bare.jinja"  # the base policy has none
    template.write_text(BARE)
    command = [sys.executable, "-c", SERVE, "--model", *command[command.index("serve") + 1 :]]
    command += ["--chat-template", str(template)]
    environment = {
        **os.environ,
        **vllm_sampling.ON_CPU,
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield wait_for(f"http://127.0.0.1:{port}", server, log)
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(address, server, log):
    for _ in range(300):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            return address
        except (urllib.error.URLError, TimeoutError):
            time.sleep(1)
    pytest.fail(log.read_text()[-3000:])


@pytest.fixture
def handed_over(tmp_path, monkeypatch):
    """Weights go through a folder; the list of how many tensors each update had."""
    folder, updates = tmp_path / "weights", []
    shutil.copytree(tiny.build("tiny"), folder)

    def update_named_params(client, metadata, named_params):
        weights = {name: weight.detach().to(torch.bfloat16).clone() for name, weight in named_params}
        assert sorted(weights) == sorted(name for name, _, _ in metadata)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
        client._post(f"{client.base_url}/collective_rpc", json=body)
        updates.append(len(weights))

    monkeypatch.setattr(VLLMClient, "init_communicator", lambda client, device: None)
    monkeypatch.setattr(VLLMClient, "update_named_params", update_named_params)
    return updates


def train(address, folder, monkeypatch):
    """(curve, TRL's own comparison of sampler and trainer at each step) of four steps that move the policy far."""
    where = tiny.build("tiny")
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(where)
    made = mini_stem.generate("train", 8, 3, (1, 2))
    rows = [(p.id, p.question, p.answer, p.answer_type) for p in made]
    problems = pd.DataFrame(rows, columns=["id", "question", "answer", "answer_type"])
    profile = profiles.load("smoke", {"hardware.sampler": "vllm", "hardware.server": address})
    settings = profile.grpo.model_copy(
        update={"steps": 4, "prompts_per_step": 4, "group_size": 4, "micro_batch_size": 4, "learning_rate": 1e-3,
                "warmup_share": 0.0, "max_completion": LENGTH}
    )  # fmt: skip
    # Half of the rollouts are right, so that there is something to learn: the policy itself hardly ever is.
    monkeypatch.setattr(grpo, "rewards", lambda rows, completions: [float(i % 2) for i in range(len(rows))])
    trainers, plain = [], gpu.grpo_trainer_class()

    class Kept(plain):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            trainers.append(self)

    monkeypatch.setattr(gpu, "grpo_trainer_class", lambda: Kept)
    curve = grpo.train(model, tokenizer, problems, "plain", settings, folder, 0, profile.hardware, 512)
    logs = [entry for entry in trainers[0].state.log_history if "loss" in entry]
    return curve, pd.DataFrame(logs).filter(like="sampling/")


def test_rollouts_come_from_the_server_with_the_weights_of_the_step(
    address, handed_over, tmp_path, monkeypatch
):
    curve, compared = train(address, tmp_path / "run", monkeypatch)
    assert curve["step"].tolist() == [1, 2, 3, 4] and (curve["entropy"] > 0).all()
    assert len(handed_over) == 4 and len(set(handed_over)) == 1
    rollouts = grpo.collect_rollouts(tmp_path / "run", 4)
    assert len(rollouts) == 64 and rollouts["tokens"].between(1, LENGTH).all()
    ratios = compared["sampling/importance_sampling_ratio/mean"]
    assert ratios.tolist() == pytest.approx([1.0] * 4, abs=0.02)

    # The same without handing anything over: the server keeps what it has, and the trainer moves away from it.
    monkeypatch.setattr(VLLMClient, "update_named_params", lambda client, metadata, named_params: None)
    _, stale = train(address, tmp_path / "stale", monkeypatch)
    name = "sampling/sampling_logp_difference/mean"
    assert compared[name].iloc[-1] < stale[name].iloc[-1] / 4


def test_it_is_an_address_for_instruct_models(address):
    questions = ["What is 3 + 4?", "long " * 600, "Ann has 3 pens and buys 4 more. How many pens has she?"]
    asked = [[{"role": "user", "content": question}] for question in questions]
    ask = chat.at_address(f"{address}/v1", str(tiny.build("tiny")))
    tokenizer = AutoTokenizer.from_pretrained(tiny.build("tiny"))
    for temperature in (0.0, 1.0):
        decoding = chat.Decoding(max_tokens=LENGTH, temperature=temperature, top_k=20, seed=3)
        replies = ask(asked, decoding)
        assert replies == ask(asked, decoding)
        assert replies[1] == chat.TOO_LONG  # the server's own refusal, read as such
        for question, reply in ((questions[i], replies[i]) for i in (0, 2)):
            assert reply.text and (reply.ended or reply.tokens == LENGTH)
            assert reply.prompt_tokens == len(tokenizer(f"{question}\nSolution:")["input_ids"])


def test_a_name_that_the_server_does_not_know_is_one_sentence(address):
    with pytest.raises(InputError, match="does not answer for another .*check the address"):
        chat.at_address(f"{address}/v1", "another")([[{"role": "user", "content": "?"}]], GREEDY)
