"""A Llama's body on a CPU: the library's arithmetic, arranged for short sequences on few cores.

In bfloat16 a product with frozen weights is twice as fast when they lie in the order that the processor's kernel reads
(oneDNN packs them once), one large product is faster than several small ones, and a LoRA adapter costs two thin
products instead of two casts and three additions for each projection. Sampling and training both read through here,
so that they compute the same probabilities.
"""

from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from transformers.modeling_outputs import BaseModelOutputWithPast

SCORES_AT_ONCE = 4_000_000  # of attention while training: 8 MB in bfloat16
# A [parts * r, in] and scaled block-diagonal B [out, parts * r]
Adapter = tuple[torch.Tensor, torch.Tensor] | None


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


class Packed:
    """Products with a frozen matrix [out, in]; in bfloat16 it is packed for the processor's kernel."""

    def __init__(self, weight: torch.Tensor):
        self.is_packed = weight.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
        self.weight = weight.detach()
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_packed:
            return F.linear(x, self.weight)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")


class Projection:
    """Projections of one input, side by side: frozen weights, with or without LoRA adapters."""

    def __init__(self, *modules: torch.nn.Module):
        self.modules = modules
        self.sizes = [getattr(module, "base_layer", module).out_features for module in modules]
        self.product = Packed(self._weight())

    def _weight(self) -> torch.Tensor:
        return torch.cat([getattr(module, "base_layer", module).weight.detach() for module in self.modules])

    @cached_property
    def transposed(self) -> Packed:
        """For the backward pass; a model that only answers never makes it."""
        return Packed(self._weight().T)

    def adapter(self, dtype: torch.dtype) -> Adapter:
        """The adapters as they are now, in the precision of the products."""
        if not hasattr(self.modules[0], "lora_A"):
            return None
        a = torch.cat([m.lora_A["default"].weight for m in self.modules])
        b = [m.lora_B["default"].weight * m.scaling["default"] for m in self.modules]
        return a.to(dtype), torch.block_diag(*b).to(dtype)

    def __call__(self, x: torch.Tensor, adapter: Adapter) -> torch.Tensor:
        a, b = adapter or (None, None)
        if torch.is_grad_enabled():
            return _Projected.apply(x, self, a, b)
        return self.forward(x.reshape(-1, x.shape[-1]), a, b)[0].view(*x.shape[:-1], -1)

    def forward(self, rows, a, b) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(rows W^T + (rows A^T) B^T, rows A^T)."""
        out = self.product(rows)
        if a is None:
            return out, None
        inner = rows @ a.T
        return out.addmm_(inner, b.T), inner


class _Projected(torch.autograd.Function):
    """x W^T + (x A^T) B^T; gradients of x, A and B, none of the frozen W."""

    @staticmethod
    def forward(ctx, x, projection, a, b):
        rows = x.reshape(-1, x.shape[-1])
        out, inner = projection.forward(rows, a, b)
        ctx.projection = projection
        ctx.save_for_backward(rows, inner, a, b)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx, gradient):
        rows, inner, a, b = ctx.saved_tensors
        shape = (*gradient.shape[:-1], rows.shape[1])
        gradient = gradient.reshape(len(rows), -1)
        to_x = ctx.projection.transposed(gradient)
        if a is None:
            return to_x.view(shape), None, None, None
        to_inner = gradient @ b
        to_x.addmm_(to_inner, a)
        return to_x.view(shape), None, to_inner.T @ rows, gradient.T @ inner


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
        joined = self.attend(_normed(x, self.first_norm), attend)
        joined = joined.view(rows, length, -1, self.dim).transpose(1, 2)
        turned = _rotated(joined[:, : -self.groups], *rotation)
        query, key, value = turned[:, : self.heads], turned[:, self.heads :], joined[:, -self.groups :]
        if keys is not None and length == 1:
            query = (query * self.scaling).view(rows, self.groups, -1, self.dim)
            seen = keys.attention(self.number, query, key[:, :, 0], value[:, :, 0], mask)
        else:
            if keys is not None:
                key, value = keys.read(self.number, key, value)
            seen = grouped_attention(query, key, value, mask, self.scaling)
        x = x + self.mix(seen.reshape(rows, length, -1), mix)
        gate, up = self.widen(_normed(x, self.second_norm), widen).chunk(2, -1)
        return x + self.narrow(F.silu(gate) * up, narrow)


class Body:
    """All layers of a Llama, its final norm and (for sampling) its head."""

    def __init__(self, causal):
        self.model = causal.model
        self.head = Packed(causal.lm_head.weight)
        self._head_weight = causal.lm_head.weight
        self.layers = [_Layer(layer, number) for number, layer in enumerate(self.model.layers)]
        self.dtype = self.model.embed_tokens.weight.dtype

    def adapters(self) -> list[list[Adapter]]:
        """All adapters as they are now: made once for reads between which the weights do not change."""
        return [layer.adapters(self.dtype) for layer in self.layers]

    def keys(self) -> Keys:
        return Keys(len(self.layers))

    @cached_property
    def head_transposed(self) -> Packed:
        return Packed(self._head_weight.T)

    def log_probabilities(self, states, labels, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each label and the entropy (nats, without gradient) after states [tokens, width]."""
        return _Chosen.apply(states, labels, self, temperature)

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
            mask = _mask(known, 1, x.dtype)
        else:
            mask = _mask(known, ids.shape[1], x.dtype)
        rotation = self.model.rotary_emb(x, position_ids=positions)
        rotation = tuple(part.unsqueeze(1) for part in rotation)
        for layer, own in zip(self.layers, adapters, strict=True):
            x = layer(x, own, rotation, mask, keys)
        if is_drawing:
            keys.written += 1
        return _normed(x, self.model.norm)


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


class _Chosen(torch.autograd.Function):
    """log softmax(x W^T / temperature) at the labels, a few tokens at a time.

    Their gradient is (one at the label - probabilities) W / temperature times what comes from above, so it is computed
    while the probabilities are at hand: logits are neither kept nor computed twice.
    """

    AT_ONCE = 64  # tokens whose probabilities stay in the processor's cache: 13 MB for a vocabulary of 49k

    @staticmethod
    def forward(ctx, states, labels, body, temperature):
        parts = [
            _choose(*part, body, temperature, ctx.needs_input_grad[0])
            for part in zip(states.split(_Chosen.AT_ONCE), labels.split(_Chosen.AT_ONCE), strict=True)
        ]
        chosen, entropy, slope = (torch.cat(part) for part in zip(*parts, strict=True))
        ctx.save_for_backward(slope)
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx, gradient, _):
        (slope,) = ctx.saved_tensors
        return (slope * gradient[:, None]).to(slope.dtype), None, None, None


def _choose(states, labels, body: Body, temperature: float, with_slope: bool):
    logits = body.head(states).float()
    logits -= logits.amax(-1, keepdim=True)
    if temperature != 1:
        logits /= temperature
    weights = logits.exp()
    total = weights.sum(-1, keepdim=True)
    entropy = total.log().squeeze(-1) - torch.linalg.vecdot(weights, logits) / total.squeeze(-1)
    chosen = (logits.gather(-1, labels[:, None]) - total.log()).squeeze(-1)
    if not with_slope:
        return chosen, entropy, states[:0]
    weights /= -total * temperature
    weights.scatter_add_(-1, labels[:, None], torch.full_like(total, 1 / temperature))
    return chosen, entropy, body.head_transposed(weights.to(states.dtype))


def _mask(known: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """What the last `length` of the keys may see, to be added to the scores: [rows, 1, length, keys]."""
    keys = known.shape[1]
    causal = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)
    seen = known.bool()[:, None, None, :] & causal
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def _normed(x, module):
    if torch.is_grad_enabled():
        return _Normed.apply(x, module.weight, module.variance_epsilon)
    return _norm(x, module.weight, module.variance_epsilon)[0]


def _norm(x, weight, epsilon):
    """(RMSNorm with the rounding of the library's, the same without the weight in float32, the factor)."""
    wide = x.float()
    size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
    inverse = size.add_(epsilon).rsqrt_()
    wide = wide.mul_(inverse) if wide is not x else wide * inverse
    return wide.to(x.dtype) * weight, wide, inverse


class _Normed(torch.autograd.Function):
    """A third of the time of the library's: its backward pass makes no copies."""

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        out, wide, inverse = _norm(x, weight, epsilon)
        ctx.save_for_backward(wide, inverse, weight)
        return out

    @staticmethod
    def backward(ctx, gradient):
        wide, inverse, weight = ctx.saved_tensors
        to_wide = (gradient * weight).float()
        along = torch.linalg.vecdot(to_wide, wide).unsqueeze(-1).div_(wide.shape[-1])
        return to_wide.addcmul_(wide, along, value=-1).mul_(inverse).to(weight.dtype), None, None


def _rotated(x, cos, sin):
    return _Rotated.apply(x, cos, sin) if torch.is_grad_enabled() else _turn(x, cos, sin)


class _Rotated(torch.autograd.Function):
    """Rotary positions; the gradient is turned back by the same angles."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient):
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None


def _turn(x, cos, sin):
    out, half = x * cos, x.shape[-1] // 2
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


def grouped_attention(query, key, value, mask, scaling: float) -> torch.Tensor:
    """Attention without repeating keys for grouped queries: [rows, tokens, heads, dim].

    query [rows, heads, tokens, dim], key and value [rows, groups, keys, dim]; `mask` from `_mask`. The heads that share
    a key are laid along the token axis, which is the same arithmetic.
    """
    rows, heads, length, dim = query.shape
    groups, keys = key.shape[1:3]
    if not torch.is_grad_enabled():
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2)
    at_once = max(1, SCORES_AT_ONCE // (heads * length * keys))
    if rows > at_once:  # forward and backward then read scores that are still in the processor's cache
        parts = zip(*(each.split(at_once) for each in (query, key, value, mask)), strict=True)
        return torch.cat([grouped_attention(*part, scaling) for part in parts])
    folded = (query * scaling).reshape(rows, groups, heads // groups * length, dim)
    scores = (folded @ key.transpose(-1, -2)).view(rows, groups, heads // groups, length, keys)
    weights = torch.softmax(scores.add_(mask.unsqueeze(2)), -1)  # computed in float32, whatever its input
    out = (weights.view(rows, groups, -1, keys) @ value).view(rows, heads, length, dim)
    return out.transpose(1, 2)
