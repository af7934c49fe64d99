"""A sentence-transformers model in the form that OpenVINO's CPU plugin runs fastest.

The vectors stay the same, which the proof after the conversion shows; what changes is how the graph
says it. Attention is written out, with a mask of one row for all queries of a text, because that is
the pattern the plugin makes one kernel of. And the last steps begin with a matrix product, because
the plugin keeps in float32 whatever leads to an output past no such product: in a transformer that
is the whole residual stream, and an eighth of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

from langchain_gpu.engine.runtimes.traced import Traced

NAME = "langchain_gpu_fusible"
# Low enough that exp() of it is zero, and finite: a row that sees no token, as padding on the left
# makes them, stays a number. Every half format can hold it.
_UNSEEN = -10_000.0
# What a model may ask of its attention and what is left to transformers' own function.
_UNUSUAL = ("softcap", "s_aux", "position_bias", "cache")


def fusible_mask(
    *args: Any,
    attention_mask: torch.Tensor | None = None,
    mask_function: Any = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """Build the mask that is added to the scores; transformers' interface.

    Returns:
        Shape (rows, 1, 1, tokens) where every token sees all tokens of its text, and
        (rows, 1, tokens, tokens) where the model wants anything else. Float32.
    """
    if mask_function is bidirectional_mask_function and not use_vmap and attention_mask is not None:
        seen = attention_mask[:, None, None, :].float()
        return (1.0 - seen) * _UNSEEN
    kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    mask = sdpa_mask(
        *args,
        attention_mask=attention_mask,
        mask_function=mask_function,
        use_vmap=use_vmap,
        **kwargs,
    )
    return None if mask is None else (1.0 - mask.float()) * _UNSEEN


def fusible_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend; transformers' interface.

    Args:
        module: The layer.
        query: Shape (rows, heads, tokens, width), as key and value, which may have fewer heads.
        key: See `query`.
        value: See `query`.
        attention_mask: What `fusible_mask` built.
        kwargs: What the model asks for beside that; `scaling` is read.
    """
    if attention_mask is None or any(kwargs.get(name) is not None for name in _UNUSUAL):
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return result
    scaling = kwargs.get("scaling")
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    if (groups := getattr(module, "num_key_value_groups", 1)) > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = torch.matmul(query * scaling, key.transpose(2, 3)) + attention_mask
    attended = torch.matmul(torch.softmax(scores, dim=-1), value)
    return attended.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, fusible_attention)
AttentionMaskInterface.register(NAME, fusible_mask)


@contextmanager
def fusible(modules: torch.nn.Sequential) -> Iterator[bool]:
    """Let the transformer among `modules` use this attention for a while.

    Yields:
        Whether it does; a model without exchangeable attention keeps its own.
    """
    model: Any = modules[0].model
    before = getattr(model.config, "_attn_implementation", None)
    if not getattr(model, "_supports_attention_backend", False) or not isinstance(before, str):
        yield False
        return
    model.set_attn_implementation(NAME)
    try:
        yield True
    finally:
        model.set_attn_implementation(before)


class Fusible(Traced):
    """`Traced`, with a matrix product between the transformer and what follows it.

    Args:
        modules: sentence-transformers' modules, the transformer first.
    """

    def __init__(self, modules: torch.nn.Sequential) -> None:
        super().__init__(modules)
        first = modules[1] if len(modules) > 1 else None
        self.pooling = first.pooling_mode if isinstance(first, Pooling) else None
        self.width = first.pooling_output_dimension if isinstance(first, Pooling) else 0
        self.left = getattr(modules[0].tokenizer, "padding_side", "") == "left"

    def finish(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """See `Traced.finish`."""
        rest = list(self.rest)
        if self.pooling == "mean":
            seen = features["attention_mask"].float()
            count = seen.sum(dim=1, keepdim=True).clamp(min=1e-9)
            summed = torch.matmul(seen[:, None, :], features["token_embeddings"])[:, 0]
            features["sentence_embedding"] = summed / count
            rest = rest[1:]
        elif self.pooling is not None:
            if self.pooling == "cls" and not self.left:  # at a place that is known: the first
                features["sentence_embedding"] = features["token_embeddings"][:, 0]
                rest = rest[1:]
            else:
                features = rest.pop(0)(features)
            features["sentence_embedding"] @= torch.eye(self.width)
        for module in rest:
            features = module(features)
        return features
