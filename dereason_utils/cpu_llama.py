"""A Llama's body on a CPU: the library's arithmetic, arranged for short sequences on few cores.

In bfloat16 a product with frozen weights is twice as fast when they lie in the order that the processor's kernel reads
(oneDNN packs them once), one large product is faster than several small ones, and a LoRA adapter costs two thin
products instead of two casts and three additions for each projection. Sampling and training both read through here,
so that they compute the same probabilities.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from functools import cached_property
from os.path import commonprefix

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast

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
        return _Projected.apply(x, self, *(adapter or (None, None)))


class _Projected(torch.autograd.Function):
    """x W^T + (x A^T) B^T; gradients of x, A and B, none of the frozen W."""

    @staticmethod
    def forward(ctx, x, projection, a, b):
        rows = x.reshape(-1, x.shape[-1])
        out = projection.product(rows)
        inner = None
        if a is not None:
            inner = rows @ a.T
            out.addmm_(inner, b.T)
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
        self.heads = self.attend.sizes[0] // self.dim

    def adapters(self, dtype):
        return [p.adapter(dtype) for p in (self.attend, self.mix, self.widen, self.narrow)]

    def __call__(self, x, adapters, rotation, mask, cache: Cache | None):
        attend, mix, widen, narrow = adapters
        joined = self.attend(_normed(x, self.first_norm), attend)
        joined = joined.view(*x.shape[:2], -1, self.dim).transpose(1, 2)
        kv = (joined.shape[1] - self.heads) // 2
        turned = _Rotated.apply(joined[:, :-kv], *rotation)
        query, key, value = turned[:, : self.heads], turned[:, self.heads :], joined[:, -kv:]
        if cache is not None:
            key, value = cache.update(key, value, self.number)
        seen = grouped_attention(query, key, value, mask, self.scaling)
        x = x + self.mix(seen.reshape(*x.shape[:2], -1), mix)
        gate, up = self.widen(_normed(x, self.second_norm), widen).chunk(2, -1)
        return x + self.narrow(F.silu(gate) * up, narrow)


class Body:
    """All layers of a Llama, its final norm and (for sampling) its head."""

    def __init__(self, causal):
        self.model = causal.model
        self.head = Packed(causal.lm_head.weight)
        self.layers = [_Layer(layer, number) for number, layer in enumerate(self.model.layers)]
        self.dtype = self.model.embed_tokens.weight.dtype

    def adapters(self) -> list[list[Adapter]]:
        """All adapters as they are now: made once for reads between which the weights do not change."""
        return [layer.adapters(self.dtype) for layer in self.layers]

    def __call__(self, ids, known, positions, adapters, cache: Cache | None = None) -> torch.Tensor:
        """Last hidden states [rows, tokens, width].

        ids and positions [rows, tokens]; known [rows, keys] is 1 for a token and 0 for padding, the keys of `cache`
        included.
        """
        x = self.model.embed_tokens(ids)
        mask = _mask(known, ids.shape[1], x.dtype)
        rotation = self.model.rotary_emb(x, position_ids=positions)
        rotation = tuple(part.unsqueeze(1) for part in rotation)
        for layer, own in zip(self.layers, adapters, strict=True):
            x = layer(x, own, rotation, mask, cache)
        return _normed(x, self.model.norm)


def body(model) -> Body:
    """The model's `Body`, made on first use and kept with it: packing takes a second."""
    causal = causal_model(model)
    if not hasattr(causal, "_dereason_body"):
        causal._dereason_body = Body(causal)
    return causal._dereason_body


@contextmanager
def quick_training(model, rows: Sequence[list[int]]):
    """Within the block, a model that `Body` can compute reads its training batches through it.

    What all `rows` (token ids) begin with, the instruction and the worked example of every prompt (60 tokens of about
    150 on the `cpu` profile), is read once per batch: its keys and values are the same in each row, gradient included.
    Batches must be padded on the right; any other batch, one with a cache say, and any other model take the plain way.
    """
    if not is_readable(model):
        yield
        return
    backbone, own = causal_model(model).base_model, body(model)
    prefix, plain = torch.tensor(commonprefix(rows), dtype=torch.long), backbone.forward

    def forward(input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **options):
        known = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        if past_key_values is not None or options.get("position_ids") is not None or not known[:, 0].all():
            return plain(input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values,
                         use_cache=use_cache, **options)  # fmt: skip
        with torch.autocast("cpu", enabled=False):
            return BaseModelOutputWithPast(last_hidden_state=_read_training(own, prefix, input_ids, known))

    backbone.forward = forward
    try:
        yield
    finally:
        del backbone.forward  # the class's own again, unless a library had set one here before
        if backbone.forward != plain:
            backbone.forward = plain


def _read_training(body: Body, prefix, ids, known) -> torch.Tensor:
    """Last hidden states of a batch that is padded on the right; the prefix, where it is one, is read once."""
    rows, width, adapters = len(ids), len(prefix), body.adapters()
    positions = torch.arange(ids.shape[1])[None]
    shared = rows > 1 and 0 < width < ids.shape[1] and bool((ids[:, :width] == prefix).all())
    if not (shared and known[:, :width].all()):
        return body(ids, known, positions.expand(rows, -1), adapters)
    cache = DynamicCache(config=body.model.config)
    first = body(ids[:1, :width], known[:1, :width], positions[:, :width], adapters, cache)
    cache.batch_repeat_interleave(rows)
    rest = body(ids[:, width:], known, positions[:, width:].expand(rows, -1), adapters, cache)
    return torch.cat([first.expand(rows, -1, -1), rest], 1)


def _mask(known: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """What the last `length` of the keys may see, to be added to the scores: [rows, 1, length, keys]."""
    keys = known.shape[1]
    causal = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)
    seen = known.bool()[:, None, None, :] & causal
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def _normed(x, module):
    return _Normed.apply(x, module.weight, module.variance_epsilon)


class _Normed(torch.autograd.Function):
    """RMSNorm with the rounding of the library's, and a third of its time (its backward pass makes no copies)."""

    @staticmethod
    def forward(ctx, x, weight, epsilon):
        wide = x.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = size.add_(epsilon).rsqrt_()
        wide = wide.mul_(inverse) if wide is not x else wide * inverse
        ctx.save_for_backward(wide, inverse, weight)
        return wide.to(x.dtype) * weight

    @staticmethod
    def backward(ctx, gradient):
        wide, inverse, weight = ctx.saved_tensors
        to_wide = (gradient * weight).float()
        along = torch.linalg.vecdot(to_wide, wide).unsqueeze(-1).div_(wide.shape[-1])
        return to_wide.addcmul_(wide, along, value=-1).mul_(inverse).to(weight.dtype), None, None


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
    if length == 1:
        folded = query.reshape(rows, groups, heads // groups, dim)
        out = F.scaled_dot_product_attention(folded, key, value, attn_mask=mask, scale=scaling)
        return out.reshape(rows, 1, heads, dim)
    if not torch.is_grad_enabled():
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True
        )
        return out.transpose(1, 2)
    folded = (query * scaling).reshape(rows, groups, heads // groups * length, dim)
    scores = (folded @ key.transpose(-1, -2)).view(rows, groups, heads // groups, length, keys)
    weights = torch.softmax(scores.add_(mask.unsqueeze(2)), -1)  # computed in float32, whatever its input
    out = (weights.view(rows, groups, -1, keys) @ value).view(rows, heads, length, dim)
    return out.transpose(1, 2)
