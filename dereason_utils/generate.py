"""Sampling completions with the policy: one function for rollouts, rating and evaluation.

Hugging Face's `generate` spends most of a CPU's time on four things that a rollout does not need: copying each
key/value head for every query head, copying the whole cache for every token, drawing from 49k probabilities with
`multinomial`, and decoding rows that have already ended. The loop below leaves them out and is otherwise plain
ancestral sampling.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from dereason_utils.errors import InputError

GROUPED = "dereason_grouped"
_SHRINK_AT = 0.75  # rows still decoding, as a share of the batch, below which the batch is cut down


def grouped_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    """Attention without repeating keys for grouped queries, in the form that is quickest on a CPU.

    query [batch, heads, length, dim], key and value [batch, groups, keys, dim]; `attention_mask` is boolean (True: may
    be seen) and broadcasts to [batch, heads, length, keys], or None for plain causal attention. The heads that share a
    key are laid along the length axis, which is the same arithmetic. While decoding that halves a step's time. In
    training the explicit products are used, because the backward pass of PyTorch's fused attention on a CPU is a
    third slower at these lengths.
    """
    batch, heads, length, dim = query.shape
    groups, keys = key.shape[1:3]
    folded = query.reshape(batch, groups, heads // groups * length, dim)
    if length == 1:
        out = F.scaled_dot_product_attention(folded, key, value, attn_mask=attention_mask, scale=scaling)
        return out.reshape(batch, 1, heads, dim), None
    if not torch.is_grad_enabled():
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=attention_mask,
            is_causal=attention_mask is None,
            scale=scaling,
            enable_gqa=True,
        )
        return out.transpose(1, 2).contiguous(), None
    if attention_mask is None:
        attention_mask = torch.ones(1, 1, length, keys, dtype=torch.bool, device=query.device).tril(
            keys - length
        )
    scores = (folded @ key.transpose(-1, -2)).view(batch, groups, heads // groups, length, keys) * scaling
    scores = scores.masked_fill(~attention_mask.unsqueeze(2), torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(value.dtype)
    weights = F.dropout(weights, dropout, module.training)
    out = (weights.view(batch, groups, -1, keys) @ value).view(batch, heads, length, dim)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)


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
    """One sampled completion: `tokens` includes the end token if one was drawn, `entropy` is nats per token."""

    tokens: list[int]
    ended: bool
    entropy: float


def draw(
    logits: torch.Tensor, temperature: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row from softmax(logits / temperature), and that distribution's entropy in nats.

    logits [rows, vocabulary]; both results [rows]. Inverse-CDF sampling; temperature 0 takes the most likely token.
    """
    logits = logits.float()
    if temperature == 0:
        return logits.argmax(-1), torch.zeros(len(logits))
    probabilities = torch.softmax(logits / temperature, -1)
    entropy = torch.special.entr(probabilities).sum(-1)
    cumulative = probabilities.cumsum(-1)
    # Scaled by the last entry because float32 sums of 49k terms end a little off 1.
    uniform = torch.rand(len(logits), 1, generator=generator, device=logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, uniform).squeeze(-1).clamp_(max=logits.shape[-1] - 1), entropy


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
    on_batch: Callable[[int, list[Completion]], None] = lambda done, batch: None,
) -> list[list[Completion]]:
    """Sample `copies` completions for each tokenised prompt; result [prompts][copies], in the order given.

    A batch holds at most `batch_size` completions. `on_batch` is called with the number of finished prompts and the
    new completions.
    """
    results: list[list[Completion]] = [[] for _ in prompts]
    generator = torch.Generator(device=model.device).manual_seed(seed)
    was_training = model.training
    model.eval()
    # Float32 adapters over bfloat16 weights: autocast computes both as the training step does, and faster.
    mixed = torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16)
    done = 0
    for chosen in batches(prompts, batch_size // copies):
        with mixed:
            batch = _decode(
                model, tokenizer, [prompts[i] for i in chosen], copies, max_new_tokens, temperature, generator
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


def _decode(model, tokenizer, prompts, copies, max_new_tokens, temperature, generator) -> list[Completion]:
    """Left-pad, read each prompt once, copy its cache for every completion, then draw token by token."""
    ends = torch.tensor(end_tokens(model, tokenizer), device=model.device)
    ids, mask, positions = left_padded(prompts, tokenizer, model.device)
    cache = Cache(layers=[RoomyLayer() for _ in range(model.config.num_hidden_layers)])
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
    ).logits[:, -1]
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
    entropies, ended = [0.0] * count, [False] * count
    alive = torch.ones(count, dtype=torch.bool, device=model.device)
    for step in range(max_new_tokens):
        token, entropy = draw(logits, temperature, generator)
        stop = torch.isin(token, ends)
        for row, t, h, s, a in zip(
            rows.tolist(), token.tolist(), entropy.tolist(), stop.tolist(), alive.tolist()
        ):
            if a:
                tokens[row].append(t)
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
        logits = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=mask.sum(-1, keepdim=True) - 1,
            past_key_values=cache,
        ).logits[:, -1]
    return [Completion(t, e, h / len(t)) for t, e, h in zip(tokens, ended, entropies, strict=True)]


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
