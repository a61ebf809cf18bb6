r"""An embedding that holds codes and nothing else: h = R' decode(codes)[token], one row a token.

A row is decoded with the strip of 16 that it is in, and rotated back. A tied weight is stored once: the codes are the
head's, which multiplies with them."""

from __future__ import annotations

import torch
from torch import nn

from quantizers.linear import QuantizedLinear


class QuantizedEmbedding(nn.Module):
    """Looks up rows of `matrix`, the packed (vocabulary, n), in place of the dense `embedding`, whose dtype and scale
    (`embed_scale` of the Gemma families, which multiplies every row) it takes over.

    tied: the matrix is the head of the model and stays in its place; otherwise it is a child, and never called."""

    matrix: QuantizedLinear
    embed_scale: torch.Tensor | None
    like: torch.Tensor

    def __init__(self, matrix: QuantizedLinear, embedding: nn.Embedding, *, tied: bool) -> None:
        """ValueError where the shapes differ."""
        super().__init__()
        if (matrix.out_features, matrix.in_features) != tuple(embedding.weight.shape):
            raise ValueError(
                f"codes of {matrix.out_features} x {matrix.in_features} are not those of an embedding of "
                f"{tuple(embedding.weight.shape)}"
            )
        if not tied:
            self.matrix = matrix
        self._held = (matrix,)  # in a tuple: a plain attribute would make a tied matrix a child
        self.num_embeddings, self.embedding_dim = matrix.out_features, matrix.in_features
        # codes have no dtype: an empty tensor follows the `.to(dtype)` of the model
        self.register_buffer("like", embedding.weight.new_empty(0, device=codes_device(matrix)), persistent=False)
        scale = dict(embedding.named_buffers(recurse=False)).get("embed_scale")
        self.register_buffer("embed_scale", scale, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self.like.dtype

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens (...) int64 -> (..., n)."""
        rows = self._held[0].rows(tokens.reshape(-1), self.dtype).view(*tokens.shape, self.embedding_dim)
        return rows if self.embed_scale is None else rows * self.embed_scale.to(rows.dtype)

    def dense_weight(self) -> torch.Tensor:
        """(vocabulary, n) float32, un-rotated, without the scale."""
        return self._held[0].dense_weight()

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, {self._held[0].quantizer.name}"


def codes_device(matrix: QuantizedLinear) -> torch.device:
    """Where the codes are."""
    return next(matrix.buffers()).device
