"""What a Llama's layer is made of, arranged for short sequences on few cores: products, norms, rotations, attention.

In bfloat16 a product with frozen weights is twice as fast when they lie in the order that the processor's kernel reads
(oneDNN packs them once), one large product is faster than several small ones, and a LoRA adapter costs two thin
products instead of two casts and three additions for each projection.
"""

from functools import cached_property

import torch
import torch.nn.functional as F

SCORES_AT_ONCE = 4_000_000  # of attention while training: 8 MB in bfloat16
# A [parts * r, in] and scaled block-diagonal B [out, parts * r]
Adapter = tuple[torch.Tensor, torch.Tensor] | None


def multiplies_bfloat16() -> bool:
    """Whether oneDNN has bfloat16 products for this processor: AVX-512 or later, not AVX2.

    Without them torch takes ten times as long for a product as in float32.
    """
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class Packed:
    """Products with a frozen matrix [out, in]; in bfloat16 it is packed for the processor's kernel."""

    def __init__(self, weight: torch.Tensor):
        self.is_packed = weight.dtype == torch.bfloat16 and multiplies_bfloat16()
        self.weight = weight.detach()
        if self.is_packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.is_packed:
            return F.linear(x, self.weight)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")


class Head:
    """The head of a language model with frozen weights [vocabulary, width]: logits, or the labels' probabilities alone."""

    def __init__(self, weight: torch.Tensor):
        self.weight = weight
        self.product = Packed(weight)

    @cached_property
    def transposed(self) -> Packed:
        """For the backward pass; a model that only answers never makes it."""
        return Packed(self.weight.T)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return self.product(states)

    def log_probabilities(self, states, labels, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of each label and the entropy (nats, without gradient) after states [tokens, width]."""
        return _Chosen.apply(states, labels, self, temperature)


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


class _Chosen(torch.autograd.Function):
    """log softmax(x W^T / temperature) at the labels, a few tokens at a time.

    Their gradient is (one at the label - probabilities) W / temperature times what comes from above, so it is computed
    while the probabilities are at hand: logits are neither kept nor computed twice.
    """

    AT_ONCE = 64  # tokens whose probabilities stay in the processor's cache: 13 MB for a vocabulary of 49k

    @staticmethod
    def forward(ctx, states, labels, head, temperature):
        parts = [
            _choose(*part, head, temperature, ctx.needs_input_grad[0])
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


def _choose(states, labels, head: Head, temperature: float, with_slope: bool):
    logits = head(states).float()
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
    return chosen, entropy, head.transposed(weights.to(states.dtype))


def causal_mask(known: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """What the last `length` of the keys may see, to be added to the scores: [rows, 1, length, keys]."""
    keys = known.shape[1]
    causal = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)
    seen = known.bool()[:, None, None, :] & causal
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def normed(x, module):
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


def rotated(x, cos, sin):
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

    query [rows, heads, tokens, dim], key and value [rows, groups, keys, dim]; `mask` from `causal_mask`. The heads that share
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
