"""Read the beginning that all rows of a batch have in common once instead of once per row.

Every prompt of the project begins with the same instruction and worked example, 60 tokens of about 150 on the `cpu`
profile. Their keys and values are the same in each row, gradient included, so one row computes them for all.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from os.path import commonprefix

import torch
from transformers.cache_utils import DynamicCache


def causal_model(model):
    """The causal language model inside a PEFT wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


@contextmanager
def shared_prefix(model, rows: Sequence[list[int]]):
    """Within the block, batches that begin with the common beginning of `rows` (token ids) read it once.

    Output and gradient are those of the plain forward pass. Batches must be padded on the right; any other batch, one
    with a cache or with another beginning, takes the plain way. On a GPU nothing changes: Unsloth brings its own
    kernels, and such a short prefix costs nothing there.
    """
    prefix = torch.tensor(commonprefix(rows))
    backbone = causal_model(model).base_model
    if model.device.type != "cpu" or len(prefix) == 0:
        yield
        return
    plain, width = backbone.forward, len(prefix)

    def forward(input_ids=None, attention_mask=None, past_key_values=None, use_cache=None, **options):
        fits = (
            past_key_values is None
            and input_ids.shape[0] > 1
            and input_ids.shape[1] > width
            and bool((input_ids[:, :width] == prefix).all())
            and (attention_mask is None or bool(attention_mask[:, :width].all()))
        )
        if not fits:
            return plain(input_ids=input_ids, attention_mask=attention_mask, past_key_values=past_key_values,
                         use_cache=use_cache, **options)  # fmt: skip
        cache = DynamicCache(config=backbone.config)
        first = plain(input_ids=input_ids[:1, :width], past_key_values=cache, use_cache=True, **options)
        cache.batch_repeat_interleave(len(input_ids))
        rest = plain(input_ids=input_ids[:, width:], attention_mask=attention_mask, past_key_values=cache,
                     use_cache=True, **options)  # fmt: skip
        head = first.last_hidden_state.expand(len(input_ids), -1, -1)
        rest.last_hidden_state = torch.cat([head, rest.last_hidden_state], 1)
        rest.past_key_values = None
        return rest

    backbone.forward = forward
    try:
        yield
    finally:
        del backbone.forward  # the class's own again, unless a library had set one here before
        if backbone.forward != plain:
            backbone.forward = plain
