"""Sampling completions with the policy: one function for rollouts, rating and evaluation.

Hugging Face's `generate` spends most of a CPU's time on what a rollout does not need: copying each key/value head for
every query head and the whole cache for every token, drawing from 49k probabilities with `multinomial`, reading the
prompts' common beginning once per row, and decoding rows that have already ended. The loop below leaves that out and
is otherwise plain ancestral sampling; `cpu_llama` reads the model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicLayer

from dereason_utils import cpu_llama, gpu
from dereason_utils.errors import InputError

_SHRINK_AT = 0.75  # rows still decoding, as a share of the batch, below which the batch is cut down
_DRAWN_AT_ONCE = 16  # rows whose probabilities stay in the processor's cache: 3 MB for a vocabulary of 49k
_BLOCK = 128  # tokens


class RoomyLayer(DynamicLayer):
    """A cache layer with room for ROOM more tokens, so that a new one is written and the others are not copied."""

    ROOM = 64
    _buffer = _keys_in_buffer = None

    def update(self, key_states, value_states, *args, **kwargs):
        length = self.get_seq_length()
        end = length + key_states.shape[-2]
        # Repeating or selecting rows leaves new tensors in `keys` and `values`, and the buffer behind.
        if not self.is_initialized or self.keys is not self._keys_in_buffer or end > self._buffer.shape[-2]:
            rows, heads, _, dim = key_states.shape
            self._buffer = key_states.new_empty(2, rows, heads, end + self.ROOM, dim)
            if length:
                self._buffer[0, :, :, :length], self._buffer[1, :, :, :length] = self.keys, self.values
        self._buffer[0, :, :, length:end], self._buffer[1, :, :, length:end] = key_states, value_states
        self.keys, self.values = self._buffer[:, :, :, :end]
        self._keys_in_buffer, self.is_initialized = self.keys, True
        return self.keys, self.values


@dataclass(frozen=True)
class Completion:
    """One sampled completion: `tokens` includes the end token if one was drawn, `entropy` is nats per token.

    log_probabilities: the tokens', by the sampler; None from our own loop, which reads the trainer's very weights.
    watched: of the tokens to watch, the logits where each token was drawn, [tokens][watched].
    """

    tokens: list[int]
    ended: bool
    entropy: float
    log_probabilities: list[float] | None = None
    watched: tuple[list[float], ...] = ()


def draw(
    logits: torch.Tensor, temperature: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row from softmax(logits / temperature), and that distribution's entropy in nats.

    logits [rows, vocabulary]; both results [rows]. Inverse-CDF sampling; temperature 0 takes the most likely token.
    """
    if temperature == 0:
        return logits.argmax(-1), torch.zeros(len(logits))
    uniform = torch.rand(len(logits), 1, generator=generator, device=logits.device)
    drawn = [
        _draw(part, temperature, u)
        for part, u in zip(logits.split(_DRAWN_AT_ONCE), uniform.split(_DRAWN_AT_ONCE), strict=True)
    ]
    tokens, entropies = zip(*drawn, strict=True)
    return torch.cat(tokens), torch.cat(entropies)


def _draw(logits, temperature, uniform) -> tuple[torch.Tensor, torch.Tensor]:
    """`draw` with the uniform numbers [rows, 1] given: first a block of the vocabulary, then a token in it."""
    logits = F.pad(logits.float(), (0, -logits.shape[-1] % _BLOCK), value=-torch.inf)
    logits = logits.sub_(logits.amax(-1, keepdim=True))
    if temperature != 1:
        logits.div_(temperature)
    weights = logits.exp()
    # 0 * -inf would make an impossible token's entropy NaN
    mean = torch.linalg.vecdot(weights, logits.clamp_(min=-1e9))
    blocks = weights.view(len(weights), -1, _BLOCK)
    sums = blocks.sum(-1)
    cumulative = sums.cumsum(-1)
    total = cumulative[:, -1:]
    wanted = uniform * total
    block = torch.searchsorted(cumulative, wanted)
    inside = blocks[torch.arange(len(blocks)), block.squeeze(-1)].cumsum(-1)
    # Sums of other order end a little off each other; never 0, which a first token that is impossible would reach.
    wanted = (wanted - cumulative.gather(-1, block) + sums.gather(-1, block)).clamp_(min=1e-30)
    place = torch.searchsorted(inside, torch.minimum(wanted, inside[:, -1:]))
    total = total.squeeze(-1)
    return (block * _BLOCK + place).squeeze(-1), total.log() - mean / total


@torch.inference_mode()
def sample(
    model,
    tokenizer,
    prompts: list[list[int]],
    *,
    copies: int = 1,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
    watch: Sequence[int] = (),
    on_batch: Callable[[int, list[Completion]], None] = lambda done, batch: None,
) -> list[list[Completion]]:
    """Sample `copies` completions for each tokenised prompt; result [prompts][copies], in the order given.

    A batch holds at most `batch_size` completions. `watch`: tokens whose logits are kept wherever one is drawn.
    `on_batch` is called with the number of finished prompts and the new completions. On a GPU gpu.py samples instead, and
    on a CPU vLLM does for a policy that was loaded with it; they make batches of their own and watch nothing.
    """
    if model.device.type == "cuda":
        return gpu.sample(
            model, tokenizer, prompts, end_tokens(model, tokenizer), copies=copies, max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed, on_batch=on_batch, completion=Completion,
        )  # fmt: skip
    if hasattr(model, "vllm_engine"):
        from dereason_utils import vllm_sampling  # which imports this module

        vllm_sampling.refresh(model.vllm_engine, model)
        return vllm_sampling.sample(
            model.vllm_engine, end_tokens(model, tokenizer), prompts, copies=copies, max_new_tokens=max_new_tokens,
            temperature=temperature, seed=seed, on_batch=on_batch,
        )  # fmt: skip
    results: list[list[Completion]] = [[] for _ in prompts]
    generator = torch.Generator(device=model.device).manual_seed(seed)
    was_training = model.training
    model.eval()
    own_reader = reader(model)
    done = 0
    for chosen in batches(prompts, batch_size // copies):
        batch = _decode(
            model,
            tokenizer,
            own_reader,
            [prompts[i] for i in chosen],
            copies,
            max_new_tokens,
            temperature,
            generator,
            list(watch),
        )
        for place, i in enumerate(chosen):
            results[i] = batch[place * copies : (place + 1) * copies]
        done += len(chosen)
        on_batch(done, batch)
    model.train(was_training)
    return results


def batches(prompts: list[list[int]], size: int) -> list[list[int]]:
    """The prompts' places in batches of at most `size` (at least one), sorted by length to hold little padding."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    size = max(1, size)
    return [order[start : start + size] for start in range(0, len(order), size)]


def reader(model):
    """(read(ids, mask, positions, cache) -> logits [rows, vocabulary] after each row's last token, function making a cache).

    ids and positions [rows, tokens]; mask [rows, keys] is 0 for padding, the cache's keys included. The weights are
    those of the moment when the reader is made. On a GPU there is no cache (None): after one, Unsloth's forward reads a
    single token, whatever it is given.
    """
    if cpu_llama.is_readable(model):
        body = cpu_llama.body(model)
        adapters = body.adapters()
        return lambda ids, mask, positions, cache: body.head(
            body(ids, mask, positions, adapters, cache)[:, -1]
        ), body.keys

    def read(ids, mask, positions, cache):
        # Float32 adapters over bfloat16 weights: autocast computes both as the training step does.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            return model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            ).logits[:, -1]  # fmt: skip

    if model.device.type == "cuda":
        return read, lambda: None
    return read, lambda: Cache(layers=[RoomyLayer() for _ in range(model.config.num_hidden_layers)])


def read_prompts(model, tokenizer, reader, prompts: list[list[int]]):
    """(logits after each prompt, mask, cache) of a batch; with a cache, what all prompts begin with is read once."""
    read, new_cache = reader
    cache = new_cache()
    shared = cache is not None and len(prompts) > 1
    width = min(len(commonprefix(prompts)), min(map(len, prompts)) - 1) if shared else 0
    ids, mask, positions = left_padded([prompt[width:] for prompt in prompts], tokenizer, model.device)
    if width:
        start = torch.tensor([prompts[0][:width]], device=model.device)
        read(start, torch.ones_like(start), torch.arange(width, device=model.device)[None], cache)
        cache.batch_repeat_interleave(len(prompts))
        mask, positions = torch.cat([mask.new_ones(len(mask), width), mask], 1), positions + width
    return read(ids, mask, positions, cache), mask, cache


def _decode(
    model, tokenizer, reader, prompts, copies, max_new_tokens, temperature, generator, watch
) -> list[Completion]:
    """Read each prompt once, copy its cache for every completion, then draw token by token."""
    ends = torch.tensor(end_tokens(model, tokenizer), device=model.device)
    read, _ = reader
    logits, mask, cache = read_prompts(model, tokenizer, reader, prompts)
    if logits.isnan().any():
        raise InputError(
            f"The policy {model.name_or_path} computes NaN instead of probabilities: train it again with a "
            "lower learning rate."
        )
    if copies > 1:
        cache.batch_repeat_interleave(copies)
        logits, mask = logits.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    count = len(mask)
    rows = torch.arange(count, device=model.device)
    tokens: list[list[int]] = [[] for _ in range(count)]
    watched: list[list[list[float]]] = [[] for _ in range(count)]
    entropies, ended = [0.0] * count, [False] * count
    alive = torch.ones(count, dtype=torch.bool, device=model.device)
    for step in range(max_new_tokens):
        token, entropy = draw(logits, temperature, generator)
        stop = torch.isin(token, ends)
        seen = logits[:, watch].tolist() if watch else [[]] * len(rows)
        for row, t, h, s, a, w in zip(
            rows.tolist(), token.tolist(), entropy.tolist(), stop.tolist(), alive.tolist(), seen, strict=True
        ):
            if a:
                tokens[row].append(t)
                watched[row].append(w)
                entropies[row] += h
                ended[row] = s
        alive &= ~stop
        if not alive.any() or step == max_new_tokens - 1:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if alive.float().mean() < _SHRINK_AT:
            keep = alive.nonzero().squeeze(-1)
            cache.batch_select_indices(keep)
            rows, token, mask, alive = rows[keep], token[keep], mask[keep], alive[keep]
        logits = read(token[:, None], mask, mask.sum(-1, keepdim=True) - 1, cache)
    return [
        Completion(t, e, h / len(t), watched=tuple(w) if watch else ())
        for t, e, h, w in zip(tokens, ended, entropies, watched, strict=True)
    ]


def left_padded(rows: list[list[int]], tokenizer, device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and positions, each [rows, longest row], padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)


def end_tokens(model, tokenizer) -> list[int]:
    """Every token id that ends a completion: the tokenizer's and those that the model's own configuration names."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *(i for i in listed if i is not None)})
