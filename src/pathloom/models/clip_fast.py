"""The same numbers from open_clip's transformers in less time on a CPU; measured in speed/contrastive.py.

Classes of single modules are exchanged: names and shapes of weights stay, so the saved model is open_clip's own.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional


class SelfAttention(nn.MultiheadAttention):
    """Self-attention without the copies that nn.MultiheadAttention makes of queries, keys and values."""

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """[batch, tokens, width] thrice, the same one, to [batch, tokens, width]."""
        batch, tokens, width = query.shape
        projected = functional.linear(query, self.in_proj_weight, self.in_proj_bias)
        heads = projected.view(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=attn_mask)
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, width)), None


class PatchProjection(nn.Conv2d):
    """The convolution of a patch embedding as the matrix product that it is: each patch is one kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """[batch, channels, height, width] to [batch, width of the tower, rows, columns]."""
        batch, channels, height, width = input.shape
        down, across = self.kernel_size
        rows, columns = height // down, width // across
        patches = input.view(batch, channels, rows, down, columns, across).permute(0, 2, 4, 1, 3, 5)
        flat = patches.reshape(batch, rows, columns, channels * down * across)
        return functional.linear(flat, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def quicken(model: Any) -> None:
    """Exchange what the two classes stand for, in blocks where nothing else is asked of it."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    for module in model.modules():
        if (
            type(module) is ResidualAttentionBlock
            and _is_plain(module.attn)
            and not hasattr(module, "ln_1_kv")
        ):
            module.attn.__class__ = SelfAttention
        elif type(module) is VisionTransformer and _is_one_kernel_a_patch(module.conv1):
            module.conv1.__class__ = PatchProjection


def _is_plain(attention: nn.MultiheadAttention) -> bool:
    return (
        type(attention) is nn.MultiheadAttention
        and bool(attention.batch_first)
        and attention.in_proj_weight is not None
        and attention.bias_k is None
        and not attention.add_zero_attn
        and attention.dropout == 0.0
    )


def _is_one_kernel_a_patch(convolution: nn.Module) -> bool:
    """Sides of pictures are whole numbers of patches: VisionTransformer's positions need it."""
    return (
        type(convolution) is nn.Conv2d
        and convolution.kernel_size == convolution.stride
        and convolution.padding == (0, 0)
        and convolution.groups == 1
        and convolution.dilation == (1, 1)
    )
