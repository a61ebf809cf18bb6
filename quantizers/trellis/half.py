r"""Two neighbouring trellis rates, half the input columns each (`half-tcq-1.75` .. `half-tcq-4.75`; Q-Palette,
Lee and Song, 2025, arXiv 2509.20214, section 3).

With C columns of tiles, the first ceil(C / 2) have k new bits a step, the others k + 1: where C is odd the cheaper half
is the larger one, so that the codes never take more than (k + 1/2) / 2 bits a (padded) weight. `codes` holds all tiles
of the first half, row-major, then all of the second. Both halves read one table, that of the higher rate, and share
the scale of their row. `published-half-tcq-R` is the same at the published gain (`quantizers.trellis.tcq`)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from quantizers.base import Encoded, Quantizer, Setting
from quantizers.codebooks import checked_codebook, fingerprint
from quantizers.columns import Tensors
from quantizers.packing import checked_codes
from quantizers.trellis.part import (
    checked_state_bits,
    closest_states,
    decode_part,
    part_bytes,
    path_codes,
    path_values,
    seam_window,
)
from quantizers.trellis.states import PUBLISHED_GAIN, gain, state_table, state_values, table_shape
from quantizers.trellis.tile_quantizer import TileQuantizer
from quantizers.trellis.tiles import SIDE, tile_grid
from quantizers.weights import fitted_scale, normalized, scaled


def first_columns(in_features: int) -> int:
    """How many columns have the lower rate: ceil(C / 2) tiles, or all there are."""
    return min(in_features, -(-tile_grid(SIDE, in_features)[1] // 2) * SIDE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfTrellis(TileQuantizer):
    """`half-tcq-R`: k = `step_bits` (3..9) = 2 R - 1/2 new bits a step in one half, k + 1 in the other; `published`, as
    `published-half-tcq-R`: at the published gain."""

    step_bits: int
    state_bits: int = 16
    published: bool = False
    table: torch.Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 3 <= self.step_bits <= 9:
            raise ValueError(f"half-tcq has 3 to 9 new bits for two weights in its first half, not {self.step_bits}")
        checked_state_bits(self.state_bits, self.step_bits + 1)

    @property
    def name(self) -> str:
        return f"{'published-' * self.published}half-tcq-{self.step_bits / 2 + 0.25:g}"

    @property
    def bits_per_weight(self) -> float:
        return self.step_bits / 2 + 0.25

    def settings(self) -> dict[str, Setting]:
        return {
            "quantizer": self.name,
            "state_bits": self.state_bits,
            "gain": self._gain(self.step_bits),
            "second_gain": self._gain(self.step_bits + 1),
            "window": seam_window(self.step_bits, self.state_bits),
            "codebook": fingerprint(self.codebook()),
        }

    def storage_bytes(self, out_features: int, in_features: int) -> int:
        return sum(part_bytes(out_features, width, k) for k, width in self._parts(in_features)) + 2 * out_features

    def scales(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        return TileQuantizer.scales(self, weight) | {"first_columns": torch.tensor(first_columns(weight.shape[1]))}

    def code_columns(self, columns: torch.Tensor, scales: Tensors, first: int) -> torch.Tensor:
        source = normalized(columns, scales["row_scale"])
        runs = self._runs(scales, first, columns.shape[1])
        pieces = torch.split(source, [width for _, width in runs], dim=1)
        found = [
            closest_states(piece.contiguous(), self._values(k), k) for piece, (k, _) in zip(pieces, runs, strict=True)
        ]
        return torch.cat(found, dim=1)

    def decode_columns(self, symbols: torch.Tensor, scales: Tensors, first: int, width: int) -> torch.Tensor:
        scale = scales["row_scale"]
        return scaled(self._unit(symbols, self._runs(scales, first, width), len(scale)), scale)

    def assemble(
        self, weight: torch.Tensor, symbols: torch.Tensor, scales: Tensors, metric: torch.Tensor | None = None
    ) -> Encoded:
        rows, columns = weight.shape
        parts = self._parts(columns)
        pieces = torch.split(symbols, [tile_grid(rows, width)[1] for _, width in parts], dim=1)
        codes = [path_codes(piece, k, self.state_bits) for piece, (k, _) in zip(pieces, parts, strict=True)]
        scale = fitted_scale(weight, self._unit(symbols, parts, rows), metric)
        return Encoded(out_features=rows, in_features=columns, tensors={"codes": torch.cat(codes), "row_scale": scale})

    def decode(self, encoded: Encoded) -> torch.Tensor:
        rows = encoded.out_features
        codes = encoded.tensors["codes"]
        parts = self._parts(encoded.in_features)
        sizes = [part_bytes(rows, width, k) for k, width in parts]
        coded = [
            decode_part(piece, self._values(k), k, rows, width)
            for piece, (k, width) in zip(torch.split(checked_codes(codes, sum(sizes)), sizes), parts, strict=True)
        ]
        return scaled(torch.cat(coded, dim=1), encoded.tensors["row_scale"])

    def codebook(self) -> torch.Tensor:
        return state_table(self.step_bits + 1, self.state_bits) if self.table is None else self.table

    def with_codebook(self, codebook: torch.Tensor) -> Quantizer:
        shape = table_shape(self.step_bits + 1, self.state_bits)
        return replace(self, table=checked_codebook(codebook, shape, self.name))

    def _gain(self, step_bits: int) -> float:
        """Standard deviation that the columns of k new bits a step are scaled to."""
        return PUBLISHED_GAIN if self.published else gain(self.codebook(), step_bits, self.state_bits)

    def _values(self, step_bits: int) -> torch.Tensor:
        """(2^L, 2) float32, of a source of variance one."""
        return state_values(self.codebook(), self.state_bits) / self._gain(step_bits)

    def _parts(self, in_features: int) -> list[tuple[int, int]]:
        """(new bits a step, columns) of the halves that are not empty."""
        return self._split(first_columns(in_features), in_features)

    def _runs(self, scales: Tensors, first: int, width: int) -> list[tuple[int, int]]:
        """`_parts` of the columns first .. first + width - 1."""
        return self._split(min(width, max(0, int(scales["first_columns"]) - first)), width)

    def _split(self, low: int, width: int) -> list[tuple[int, int]]:
        parts = [(self.step_bits, low), (self.step_bits + 1, width - low)]
        return [(k, columns) for k, columns in parts if columns > 0]

    def _unit(self, symbols: torch.Tensor, parts: list[tuple[int, int]], rows: int) -> torch.Tensor:
        """Paths -> (out, in) at scale one; parts: (new bits a step, columns)."""
        pieces = torch.split(symbols, [tile_grid(rows, width)[1] for _, width in parts], dim=1)
        coded = [
            path_values(piece, self._values(k), rows, width) for piece, (k, width) in zip(pieces, parts, strict=True)
        ]
        return torch.cat(coded, dim=1)
