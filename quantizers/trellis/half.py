r"""Two neighbouring trellis rates, half the input columns each (`half-tcq-1.75` .. `half-tcq-4.75`; Q-Palette,
Lee and Song, 2025, arXiv 2509.20214, section 3).

With C columns of tiles, the first ceil(C / 2) have k new bits a step, the others k + 1: where C is odd the cheaper half
is the larger one, so that the codes never take more than (k + 1/2) / 2 bits a (padded) weight. `codes` holds all tiles
of the first half, row-major, then all of the second. Both halves read one table, that of the higher rate, and share
the scale of their row."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.codebooks import checked_codebook, fingerprint
from quantizers.trellis.part import checked_state_bits, decode_part, encode_part, part_bytes, seam_window
from quantizers.trellis.states import gain, state_table, table_shape
from quantizers.trellis.tiles import SIDE, tile_grid
from quantizers.weights import checked, fitted_scale, half, normalized, rms


def first_columns(in_features: int) -> int:
    """How many columns have the lower rate: ceil(C / 2) tiles, or all there are."""
    return min(in_features, -(-tile_grid(SIDE, in_features)[1] // 2) * SIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfTrellis(Quantizer):
    """`half-tcq-R`: k = `step_bits` (3..9) = 2 R - 1/2 new bits a step in one half, k + 1 in the other."""

    step_bits: int
    state_bits: int = 16
    table: torch.Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 3 <= self.step_bits <= 9:
            raise ValueError(f"half-tcq has 3 to 9 new bits for two weights in its first half, not {self.step_bits}")
        checked_state_bits(self.state_bits, self.step_bits + 1)

    @property
    def name(self) -> str:
        return f"half-tcq-{self.step_bits / 2 + 0.25:g}"

    @property
    def bits_per_weight(self) -> float:
        return self.step_bits / 2 + 0.25

    @property
    def bytes_per_row(self) -> int:
        return 2

    @property
    def rotated(self) -> bool:
        return True

    def settings(self) -> dict[str, Setting]:
        return {
            "quantizer": self.name,
            "state_bits": self.state_bits,
            "gain": gain(self.codebook(), self.step_bits, self.state_bits),
            "second_gain": gain(self.codebook(), self.step_bits + 1, self.state_bits),
            "window": seam_window(self.step_bits, self.state_bits),
            "codebook": fingerprint(self.codebook()),
        }

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        return sum(part_bytes(out_features, width, k) for k, width in self._parts(in_features)) + 2 * out_features

    def encode(self, weight: torch.Tensor) -> Encoded:
        matrix = checked(weight)
        source = normalized(matrix, half(rms(matrix)))
        parts = self._parts(matrix.shape[1])
        pieces = torch.split(source, [width for _, width in parts], dim=1)
        found = [
            encode_part(piece.contiguous(), self.codebook(), k, self.state_bits)
            for piece, (k, _) in zip(pieces, parts, strict=True)
        ]
        codes = torch.cat([codes for codes, _ in found])
        scale = fitted_scale(matrix, torch.cat([coded for _, coded in found], dim=1))
        tensors = {"codes": codes, "row_scale": scale}
        return Encoded(out_features=matrix.shape[0], in_features=matrix.shape[1], tensors=tensors)

    def decode(self, encoded: Encoded) -> torch.Tensor:
        rows = encoded.out_features
        codes = encoded.tensors["codes"]
        parts = self._parts(encoded.in_features)
        sizes = [part_bytes(rows, width, k) for k, width in parts]
        if codes.numel() != sum(sizes):
            raise ValueError(f"{sum(sizes)} bytes of codes expected, not {codes.numel()}")
        coded = [
            decode_part(piece, self.codebook(), k, self.state_bits, rows, width)
            for piece, (k, width) in zip(torch.split(codes, sizes), parts, strict=True)
        ]
        return torch.cat(coded, dim=1) * encoded.tensors["row_scale"].to(torch.float32)[:, None]

    def codebook(self) -> torch.Tensor:
        return state_table(self.step_bits + 1, self.state_bits) if self.table is None else self.table

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        shape = table_shape(self.step_bits + 1, self.state_bits)
        return replace(self, table=checked_codebook(codebook, shape, self.name))

    def _parts(self, in_features: int) -> list[tuple[int, int]]:
        """(new bits a step, columns) of the halves that are not empty."""
        first = first_columns(in_features)
        parts = [(self.step_bits, first), (self.step_bits + 1, in_features - first)]
        return [(k, width) for k, width in parts if width > 0]
