"""A policy of a few thousand parameters, made in a second: for tests in which only its files and tokens matter."""

from pathlib import Path

from dereason_utils import profiles, tiny

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "Heads or tails? Answer in boxed. Ann has 3 pens and buys 4 more. 3 + 4 = 7. system user assistant"


def tokenizer(chat: bool):
    """Byte-level tokens; with `chat`, those of Qwen3-4B-Base's kind: turns end with a token that is not the end token."""
    made = tiny._tokenizer([TEXT] * 4)
    if chat:
        made.add_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], special_tokens=True)
        made.chat_template = CHATML
        made.eos_token, made.pad_token = "<|endoftext|>", None
    return made


def build(folder: Path, chat: bool = False) -> Path:
    """Write model and tokenizer into the folder."""
    import unsloth  # noqa: F401 (before transformers)
    import torch  # isort: skip
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer(chat)
    torch.manual_seed(0)
    # The output layer stays as it is drawn, so it must be drawn wide enough for a tuned adapter to be sure of a token.
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, initializer_range=0.2,
        bos_token_id=None, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = words.eos_token_id
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def load(folder: Path, chat: bool = False):
    """(model, tokenizer) of a policy that is built into the folder."""
    from dereason_utils import models

    own = settings(build(folder, chat), prompt_style="chat" if chat else "plain")
    return models.load_policy(str(folder), own, 0, train=False)


def settings(folder: Path, **changes) -> profiles.Model:
    """The smoke profile's, for the model in `folder`."""
    return profiles.load("smoke").model.model_copy(update={"name": str(folder), **changes})
