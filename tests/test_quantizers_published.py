"""The published trellis codes against the published distortions, and the gains in use against the published one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from quantizers import make_quantizer, palette
from quantizers.distortion import gaussian_distortion
from quantizers.trellis import HalfTrellis, Trellis
from quantizers.trellis.states import PUBLISHED_GAIN, state_values

TABLE = Path(__file__).resolve().parents[2] / "shared/data/llama31_8b_rtx4090/quantizers.csv"


def near(name: str, published: float, weights: int) -> bool:
    distortion, error = gaussian_distortion(make_quantizer(name), weights=weights)
    return abs(distortion - published) < 0.02 * published + 2 * error


@pytest.mark.parametrize(("rate", "published"), [(2, 0.0710), (3, 0.0189), (4, 0.0059)])
def test_published_settings_give_the_published_distortion(rate: int, published: float) -> None:
    assert near(f"published-tcq-{rate}", published, 1 << 18)


@pytest.mark.skipif(not TABLE.is_file(), reason="the published table is not here")
def test_every_published_trellis_rate_is_within_two_percent() -> None:
    published = {row["quantizer"]: float(row["distortion"]) for row in csv.DictReader(TABLE.open())}
    names = [quantizer.name for quantizer in palette(["published-*"])]
    assert {name.removeprefix("published-") for name in names} == {name for name in published if "tcq" in name}
    assert [name for name in names if not near(name, published[name.removeprefix("published-")], 1 << 16)] == []


@pytest.mark.parametrize("rate", ["tcq-1.5", "tcq-4", "half-tcq-4.75"])
def test_the_gain_of_a_rate_beats_the_published_one(rate: str) -> None:
    own, error = gaussian_distortion(make_quantizer(rate), weights=1 << 17)
    assert own + error < gaussian_distortion(make_quantizer(f"published-{rate}"), weights=1 << 17)[0]


def test_published_differs_in_the_gain_alone() -> None:
    plain, published = make_quantizer("tcq-3", 10), make_quantizer("published-tcq-3", 10)
    assert published == Trellis(step_bits=6, state_bits=10, published=True)
    assert published.settings() == {**plain.settings(), "quantizer": "published-tcq-3", "gain": PUBLISHED_GAIN}
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    encoded = published.encode(weight)
    scale = encoded.tensors["row_scale"].float()[:, None]
    table = published.codebook()
    assert table is not None
    values = state_values(table, 10).double() / PUBLISHED_GAIN
    pairs = (published.decode(encoded) / scale).double().view(-1, 2)
    assert torch.cdist(pairs, values).min(1).values.max() < 1e-5
    half = make_quantizer("published-half-tcq-3.25", 10)
    assert half == HalfTrellis(step_bits=6, state_bits=10, published=True)
    assert half.settings()["gain"] == half.settings()["second_gain"] == PUBLISHED_GAIN
    with pytest.raises(ValueError, match="published"):
        Trellis(step_bits=6, trained=True, published=True)
