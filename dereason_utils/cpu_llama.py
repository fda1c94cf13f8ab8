"""A Llama's body on a CPU: the library's arithmetic, arranged for short sequences on few cores.

Sampling and training both read through here, so that they compute the same probabilities; what several rows begin
with is read once.
"""

from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers.modeling_outputs import BaseModelOutputWithPast

from dereason_utils.cpu_ops import Adapter, Head, Projection, causal_mask, grouped_attention, normed, rotated


def causal_model(model):
    """The causal language model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def is_readable(model) -> bool:
    """Whether `Body` computes this model: a Llama on a CPU, its own weights frozen and without biases."""
    causal = causal_model(model)
    config = causal.config
    return (
        model.device.type == "cpu"
        and config.model_type == "llama"
        and not (config.attention_bias or config.mlp_bias)
        and not any(p.requires_grad for name, p in causal.named_parameters() if "lora_" not in name)
    )


class Keys:
    """Keys and values that the rows of a batch have read; what several rows share is kept once.

    A read of several tokens leaves a part, [2, n, groups, tokens, dim] for each layer, that `share` neighbouring rows
    have in common. What each row read token by token since is in `own`, [2, rows, groups, room, dim]. All of it goes
    into the products, unwritten room included: gaps between rows would make them copy.
    """

    ROOM = 32  # tokens by which `own` grows

    def __init__(self, layers: int):
        self.parts: list[list[torch.Tensor]] = [[] for _ in range(layers)]
        self.shares: list[int] = []
        self.own: list[torch.Tensor] = []
        self.written = 0
        # Of the rows that are left, among those that there were at first.
        self.places: torch.Tensor | None = None

    def batch_repeat_interleave(self, times: int) -> None:
        """Let so many rows stand where each row stood."""
        if self.own:
            for parts, own in zip(self.parts, self.own, strict=True):
                parts.append(own[:, :, :, : self.written].contiguous())
            self.shares, self.own, self.written = [*self.shares, 1], [], 0
        self.shares = [share * times for share in self.shares]

    def batch_select_indices(self, kept: torch.Tensor) -> None:
        """Leave only these rows."""
        self.own = [own[:, kept] for own in self.own]
        for parts in self.parts:
            parts[:] = [
                part if share > 1 else part[:, kept] for part, share in zip(parts, self.shares, strict=True)
            ]
        self.places = kept if self.places is None else self.places[kept]

    def read(self, layer: int, key, value) -> torch.Tensor:
        """Add a part, [rows, groups, tokens, dim] each; returns all that the rows have read, a copy for every row."""
        new = torch.stack([key, value])
        earlier = [
            part.repeat_interleave(share, 1)
            for part, share in zip(self.parts[layer], self.shares, strict=False)
        ]
        self.parts[layer].append(new)
        if layer == 0:
            self.shares.append(1)
        return torch.cat([*earlier, new], 3)

    def make_room(self, rows: int, groups: int, dim: int, dtype: torch.dtype) -> int:
        """See that `own` takes one more token of every row; returns how many more it could take after that."""
        if not self.own or self.written == self.own[0].shape[3]:
            room = torch.zeros(2, rows, groups, self.ROOM, dim, dtype=dtype)
            self.own = [torch.cat([own, room], 3) for own in self.own] or [room.clone() for _ in self.parts]
        return self.own[0].shape[3] - self.written - 1

    def attention(self, layer: int, query, key, value, mask) -> torch.Tensor:
        """Write one more token of each row into `own` and attend to everything: [rows, groups, heads, dim].

        query [rows, groups, heads of a group, dim], scaled; key and value [rows, groups, dim]; mask [rows, 1, 1, keys].
        """
        own = self.own[layer]
        own[0, :, :, self.written], own[1, :, :, self.written] = key, value
        stores = [
            _Store(part, share, self.places if share > 1 else None)
            for part, share in zip(self.parts[layer], self.shares, strict=True)
        ]
        stores.append(_Store(own, 1, None))
        scores = torch.cat([store.product(query, store.both[0].mT) for store in stores], -1).add_(mask)
        weights = torch.softmax(scores, -1).split([store.both.shape[3] for store in stores], -1)
        return sum(store.product(own, store.both[1]) for store, own in zip(stores, weights, strict=True))


class _Store(NamedTuple):
    both: torch.Tensor  # keys and values [2, n, groups, tokens, dim]
    share: int
    places: torch.Tensor | None

    def product(self, x, held) -> torch.Tensor:
        """x [rows, groups, heads, k] times `held` [n, groups, k, m], the rows that share it in one product."""
        n, groups, heads = held.shape[0], *x.shape[1:3]
        if self.places is not None:  # rows that have ended leave zeros
            x = x.new_zeros(n * self.share, *x.shape[1:]).index_copy_(0, self.places, x)
        x = x.reshape(n, self.share, groups, heads, -1).transpose(1, 2)
        out = torch.bmm(x.reshape(n * groups, self.share * heads, -1), held.flatten(0, 1))
        out = out.view(n, groups, self.share, heads, -1).transpose(1, 2)
        out = out.reshape(n * self.share, groups, heads, -1)
        return out if self.places is None else out[self.places]


class _Layer:
    def __init__(self, layer, number: int):
        self.number = number
        self.first_norm, self.second_norm = layer.input_layernorm, layer.post_attention_layernorm
        attention, mlp = layer.self_attn, layer.mlp
        self.attend = Projection(attention.q_proj, attention.k_proj, attention.v_proj)
        self.mix = Projection(attention.o_proj)
        self.widen = Projection(mlp.gate_proj, mlp.up_proj)
        self.narrow = Projection(mlp.down_proj)
        self.dim, self.scaling = attention.head_dim, attention.scaling
        self.heads, self.groups, _ = (size // self.dim for size in self.attend.sizes)

    def adapters(self, dtype):
        return [p.adapter(dtype) for p in (self.attend, self.mix, self.widen, self.narrow)]

    def __call__(self, x, adapters, rotation, mask, keys: Keys | None):
        attend, mix, widen, narrow = adapters
        rows, length = x.shape[:2]
        joined = self.attend(normed(x, self.first_norm), attend)
        joined = joined.view(rows, length, -1, self.dim).transpose(1, 2)
        turned = rotated(joined[:, : -self.groups], *rotation)
        query, key, value = turned[:, : self.heads], turned[:, self.heads :], joined[:, -self.groups :]
        if keys is not None and length == 1:
            query = (query * self.scaling).view(rows, self.groups, -1, self.dim)
            seen = keys.attention(self.number, query, key[:, :, 0], value[:, :, 0], mask)
        else:
            if keys is not None:
                key, value = keys.read(self.number, key, value)
            seen = grouped_attention(query, key, value, mask, self.scaling)
        x = x + self.mix(seen.reshape(rows, length, -1), mix)
        gate, up = self.widen(normed(x, self.second_norm), widen).chunk(2, -1)
        return x + self.narrow(F.silu(gate) * up, narrow)


class Body:
    """All layers of a Llama, its final norm and (for sampling) its head."""

    def __init__(self, causal):
        self.model = causal.model
        self.head = Head(causal.lm_head.weight)
        self.layers = [_Layer(layer, number) for number, layer in enumerate(self.model.layers)]
        self.dtype = self.model.embed_tokens.weight.dtype

    def adapters(self) -> list[list[Adapter]]:
        """All adapters as they are now: made once for reads between which the weights do not change."""
        return [layer.adapters(self.dtype) for layer in self.layers]

    def keys(self) -> Keys:
        return Keys(len(self.layers))

    def __call__(self, ids, known, positions, adapters, keys: Keys | None = None) -> torch.Tensor:
        """Last hidden states [rows, tokens, width].

        ids and positions [rows, tokens]; known [rows, keys] is 1 for a token and 0 for padding, those that `keys` holds
        included.
        """
        x = self.model.embed_tokens(ids)
        is_drawing = keys is not None and ids.shape[1] == 1
        if is_drawing:
            first = self.layers[0]
            known = F.pad(known, (0, keys.make_room(len(ids), first.groups, first.dim, x.dtype)))
            mask = causal_mask(known, 1, x.dtype)
        else:
            mask = causal_mask(known, ids.shape[1], x.dtype)
        rotation = self.model.rotary_emb(x, position_ids=positions)
        rotation = tuple(part.unsqueeze(1) for part in rotation)
        for layer, own in zip(self.layers, adapters, strict=True):
            x = layer(x, own, rotation, mask, keys)
        if is_drawing:
            keys.written += 1
        return normed(x, self.model.norm)


def body(model) -> Body:
    """The model's `Body`, made on first use and kept with it: packing takes a second."""
    causal = causal_model(model)
    if not hasattr(causal, "_dereason_body"):
        causal._dereason_body = Body(causal)
    return causal._dereason_body


@contextmanager
def quick_training(model):
    """Within the block, a model that `Body` can compute reads its training batches through it.

    What all rows of a batch begin with is read once: its keys and values are the same in each row, gradient included.
    That is the instruction and the worked example of every prompt (60 tokens of about 150 on the `cpu` profile), and
    the whole prompt where the rows are one group's rollouts. Batches must be padded on the right; any other batch, one
    with a cache say, and any other model take the plain way.
    """
    if not is_readable(model):
        yield
        return
    backbone, own = causal_model(model).base_model, body(model)
    plain = backbone.forward

    def forward(input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **options):
        known = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if past_key_values is not None or options.get("position_ids") is not None or not known[:, 0].all():
            return plain(input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values,
                         use_cache=use_cache, **options)  # fmt: skip
        with torch.autocast("cpu", enabled=False):
            return BaseModelOutputWithPast(last_hidden_state=_read_training(own, input_ids, known))

    backbone.forward = forward
    try:
        yield
    finally:
        del backbone.forward  # the class's own again, unless a library had set one here before
        if backbone.forward != plain:
            backbone.forward = plain


def _read_training(body: Body, ids, known) -> torch.Tensor:
    """Last hidden states of a batch that is padded on the right; what all rows begin with is read once."""
    rows, adapters = len(ids), body.adapters()
    positions = torch.arange(ids.shape[1])[None]
    alike = (ids == ids[:1]).all(0) & known.bool().all(0)
    width = min(
        int(alike.long().cumprod(0).sum()), ids.shape[1] - 2
    )  # a rest of one token would count as drawing
    if rows == 1 or width < 2:
        return body(ids, known, positions.expand(rows, -1), adapters)
    keys = body.keys()
    first = body(ids[:1, :width], known[:1, :width], positions[:, :width], adapters, keys)
    keys.batch_repeat_interleave(rows)
    rest = body(ids[:, width:], known, positions[:, width:].expand(rows, -1), adapters, keys)
    return torch.cat([first.expand(rows, -1, -1), rest], 1)
