"""Texts of a batch cut behind the longest: the same features and gradients in less time, where the tower is causal.

open_clip pads each text to the context and computes every position. In a causal tower that is read at the end of the
text no position behind it can change the features, and none of them gets a gradient.
"""

from typing import Any

import torch
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor
from torch.nn import functional


class ShortTextClip(CLIP):
    """open_clip.CLIP for texts shorter than the context."""

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """[batch, tokens] to [batch, embed_dim], as CLIP.encode_text of the texts padded to the context."""
        length = text.shape[1]
        dtype = self.transformer.get_cast_dtype()
        x = self.token_embedding(text).to(dtype) + self.positional_embedding[:length].to(dtype)
        x = self.ln_final(self.transformer(x, attn_mask=self.attn_mask[:length, :length]))
        x = text_global_pool(x, text, self.text_pool_type, eos_token_id=self.text_eos_id)
        if isinstance(self.text_projection, torch.nn.Linear):
            x = self.text_projection(x)
        elif self.text_projection is not None:
            x = x @ self.text_projection
        return functional.normalize(x, dim=-1) if normalize else x


class ShortTextTransformer(TextTransformer):
    """The text tower of open_clip.CustomTextCLIP for texts shorter than the context."""

    def _embeds(self, text: Tensor) -> tuple[Tensor, Tensor | None]:
        embedded, mask = super()._embeds(text)
        return embedded, mask[: text.shape[1], : text.shape[1]]


class Cutter:
    """Cuts the tokens of a batch behind the longest text, for a model that `shorten_texts` has changed."""

    def __init__(self, pool_type: str, eos_id: int) -> None:
        self.pool_type = pool_type
        self.eos_id = eos_id

    def __call__(self, tokens: Tensor) -> Tensor:
        """[batch, context] to [batch, longest]; the features are read at the highest id or at the first `eos_id`."""
        ends = tokens if self.pool_type == "argmax" else (tokens == self.eos_id).int()
        return tokens[:, : int(ends.argmax(dim=1).max()) + 1]


def shorten_texts(model: Any) -> Cutter | None:
    """Let the model take texts shorter than its context; None, and no change, where that would change its features."""
    if type(model) is CLIP:
        tower, pool_type, eos_id = model, model.text_pool_type, model.text_eos_id
    elif type(model) is CustomTextCLIP and type(model.text) is TextTransformer and model.text.cls_emb is None:
        tower, pool_type, eos_id = model.text, model.text.pool_type, model.text.eos_id
    else:
        return None
    if pool_type not in ("argmax", "eos") or tower.attn_mask is None:
        return None
    tower.__class__ = ShortTextClip if tower is model else ShortTextTransformer
    return Cutter(pool_type, eos_id)
