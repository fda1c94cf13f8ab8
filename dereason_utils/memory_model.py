"""How much memory training and sampling take, from a model's shape alone: before anything is loaded or rented.

All results are bytes. Activations are counted tensor by tensor as PyTorch's autograd keeps them for the backward pass
of a Llama- or Qwen-like decoder (RMSNorm, rotary positions, grouped queries, fused attention, gated MLP); the rest is
arithmetic on the number of parameters. `tests/measure_memory.py` compares the sums with measured peaks
(results/robustness/memory_model.csv). Not counted: the interpreter, CUDA's own context, fragmentation.
"""

from dataclasses import dataclass

FLOAT32, BFLOAT16 = 4, 2  # bytes
# NF4 weights: 4 bits, and one 8-bit constant per 64 weights with a float32 one per 256 of those (QLoRA, arXiv
# 2305.14314, section 3).
NF4 = 4 / 8 + 1 / 64 + 4 / (64 * 256)
ADAPTED = 7  # linear layers per block with an adapter


@dataclass(frozen=True)
class Shape:
    """A decoder's shape. head_dim x heads need not be hidden."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool  # input and output embeddings are one matrix

    @property
    def embeddings(self) -> int:
        """Parameters of the input and output embeddings."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def linear(self) -> int:
        """Parameters of all blocks' seven matrices."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices())

    @property
    def parameters(self) -> int:
        """All parameters; the norms' few are counted as two per block and one at the end."""
        return self.embeddings + self.linear + self.hidden * (2 * self.layers + 1)

    def matrices(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of a block's q, k, v, o, gate, up and down."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(self.hidden, queries), (self.hidden, keys), (self.hidden, keys), (queries, self.hidden)]
        wide = (self.hidden, self.intermediate)
        return [*attention, wide, wide, wide[::-1]]


# From the models' config.json, so that a plan needs no network and no download.
QWEN3_4B = Shape(2560, 36, 32, 8, 128, 9728, 151936, True)
KNOWN = {
    "Qwen/Qwen3-4B-Base": QWEN3_4B,
    "Qwen/Qwen3-4B-Instruct-2507": QWEN3_4B,
    "smollm2-135m-instruct": Shape(576, 30, 9, 3, 64, 1536, 49152, True),
}


def shape_from(facts: dict) -> Shape:
    """The shape in a config.json. Raises KeyError when it is not that of such a decoder."""
    heads = facts["num_attention_heads"]
    return Shape(
        facts["hidden_size"],
        facts["num_hidden_layers"],
        heads,
        facts.get("num_key_value_heads") or heads,
        facts.get("head_dim") or facts["hidden_size"] // heads,
        facts["intermediate_size"],
        facts["vocab_size"],
        facts.get("tie_word_embeddings", False),
    )


@dataclass(frozen=True)
class Precision:
    """How weights are kept and what is trained.

    weight: bytes per parameter that is not 4-bit; lora_rank: None trains all parameters. Adapters, and everything that
    is trained in them, are float32. autocast: products are computed in bfloat16 whatever the weights are.
    """

    weight: int
    lora_rank: int | None
    four_bit: bool = False
    autocast: bool = False

    @property
    def compute(self) -> int:
        """Bytes of an activation."""
        return BFLOAT16 if self.autocast else self.weight


def weights(shape: Shape, precision: Precision) -> float:
    """The model's own weights; in 4 bits only the blocks' matrices are (bitsandbytes leaves embeddings and norms)."""
    linear = shape.linear * (NF4 if precision.four_bit else precision.weight)
    return linear + (shape.parameters - shape.linear) * precision.weight


def adapters(shape: Shape, precision: Precision) -> int:
    """LoRA's two thin matrices beside each of a block's seven (LoRA, arXiv 2106.09685, section 4.1), in float32."""
    return FLOAT32 * _adapter_parameters(shape, precision)


def gradients(shape: Shape, precision: Precision) -> int:
    """One number per trained parameter, in its own precision."""
    return _trained(shape, precision)


def optimizer(shape: Shape, precision: Precision) -> int:
    """AdamW's two moments per trained parameter, in its own precision (ZeRO, arXiv 1910.02054, section 3.1)."""
    return 2 * _trained(shape, precision)


def _adapter_parameters(shape: Shape, precision: Precision) -> int:
    return shape.layers * (precision.lora_rank or 0) * sum(sum(matrix) for matrix in shape.matrices())


def _trained(shape: Shape, precision: Precision) -> int:
    """Bytes of all trained parameters."""
    return adapters(shape, precision) if precision.lora_rank else precision.weight * shape.parameters


def block_activations(shape: Shape, precision: Precision, explicit_length: int | None = None) -> int:
    """Bytes that one block keeps per token for its backward pass.

    Both norms keep their input in float32 and their scale; attention its queries, keys, values, result and one
    normaliser per head; the MLP the gate before and after SiLU, the other half, and their product. Where a weight is
    trained, its input is kept as well; an adapter keeps a copy of its own when that means another precision.
    explicit_length: the sequence length when attention is computed by explicit products (`cpu_llama`), which keep the
    probabilities of all pairs.
    """
    size = precision.compute
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    norms = 2 * (FLOAT32 * shape.hidden + FLOAT32)
    attention = size * (2 * queries + 2 * keys) + FLOAT32 * shape.heads
    mlp = size * 3 * shape.intermediate
    if precision.lora_rank is None:
        norms += 2 * 2 * size * shape.hidden  # normalised, and scaled: what the matrices read
        inputs = size * shape.intermediate  # `down` reads the product; `o` reads what attention keeps anyway
    else:
        own = precision.compute if precision.autocast else FLOAT32
        inputs = ADAPTED * precision.lora_rank * own + own * shape.intermediate
        if size == FLOAT32:
            inputs += 2 * own * shape.hidden  # q, k, v share one, and so do gate and up
        else:
            inputs += own * (5 * shape.hidden + queries)
    explicit = size * shape.heads * (explicit_length or 0)
    return norms + attention + mlp + inputs + explicit


def activations(
    shape: Shape,
    precision: Precision,
    tokens: int,
    checkpointed: bool = False,
    offloaded: bool = False,
    explicit_length: int | None = None,
) -> int:
    """What the forward pass of `tokens` tokens (padding included) keeps until the backward pass.

    checkpointed: each block keeps only its input and is computed again (Chen et al., arXiv 1604.06174), so one block's
    activations exist at a time; offloaded: those inputs wait in the host's memory (Unsloth).
    """
    block = block_activations(shape, precision, explicit_length)
    # With frozen embeddings the first norm keeps no input, which makes up for the last norm's.
    last_norm = (FLOAT32 + 2 * precision.compute) * shape.hidden if precision.lora_rank is None else 0
    if not checkpointed:
        return tokens * (shape.layers * block + last_norm)
    inputs = precision.compute * shape.hidden * (2 if offloaded else shape.layers)
    return tokens * (block + inputs + last_norm)


def logits(shape: Shape, precision: Precision, tokens: int, chunked: bool = False) -> int:
    """The output layer and the loss of `tokens` tokens at once, at their peak in the backward pass.

    The logits, and in float32 the log-probabilities, the loss's gradient for them and the logits' own gradient. When the
    logits come in chunks and the output matrix is trained, autograd holds the sum of its gradients over the chunks so
    far and that of the newest beside the gradient that is being accumulated.
    """
    apart = (
        2 * precision.weight * shape.vocab * shape.hidden if chunked and precision.lora_rank is None else 0
    )
    return tokens * shape.vocab * (precision.compute + 3 * FLOAT32) + apart


def kv_cache(shape: Shape, tokens: int, size: int = BFLOAT16) -> int:
    """Keys and values of `tokens` tokens in all layers (Pope et al., arXiv 2211.05102, section 3.1, with kv heads)."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * size * tokens


def training(
    shape: Shape,
    precision: Precision,
    tokens: int,
    logit_tokens: int,
    chunked: bool,
    cards: int = 1,
    **how,
) -> dict[str, float]:
    """The parts of a training step that follows others with gradient accumulation: their sum is its peak.

    tokens: of one micro-batch, padding included. logit_tokens: how many tokens' logits exist at once; chunked: they are
    not all there are. cards: weights,
    gradients and optimizer are shared out over so many (ZeRO stage 3, arXiv 1910.02054, section 5). how: see
    `activations`.
    """
    return {
        "weights": weights(shape, precision) / cards,
        "adapters": adapters(shape, precision),
        "gradients": gradients(shape, precision) / cards,
        "optimizer": optimizer(shape, precision) / cards,
        "activations": activations(shape, precision, tokens, **how),
        "logits": logits(shape, precision, logit_tokens, chunked),
    }
