"""The rest of a token: the time of a decoding step without its linear layers, of a config alone.

The lean step that `decode_step` measures: embedding, norms, rotations of inputs, rotary, attention, the activation, the
head, the greedy token. Taken out are products as they stand behind rotations (`chain.model_microseconds`), of one plan
(REFERENCE), so that this and the rows of a table add up to a step. Measured with buffers in place of products
(`lean_rest`) a token comes out 3 to 9 % too low (EXPERIMENTS.md). For families that have no lean step, transformers'
own, its linears replaced by buffers; rotations are then not in it."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, StaticCache

from quantizers import make_quantizer
from quantizers.kernels.chain import graphed, microseconds, model_microseconds, random_pool
from quantizers.kernels.lean_step import FAMILIES, USUAL_ATTENTION, LeanStep
from quantizers.kernels.products import Packed
from quantizers.kernels.random_model import block_layers, draw_others, random_model, whole_linears
from quantizers.kernels.random_plan import read_plan
from quantizers.kernels.step_timing import each_us, replayed
from quantizers.models.empty import empty_model

REPLAYS, STEPS = 15, 20  # timed, and steps of each: as `decode_step` has it, one behind another
REFERENCE = "trellis2-3"
# Products are left out: what counts of these plans is which inputs they rotate, all or none.
STAND_INS = {True: "trellis-2:fused", False: "fp16:fused"}


class Absent(nn.Module):
    """A linear layer that takes no time: its output is a buffer of random numbers."""

    def __init__(self, out_features: int, tokens: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.out_features = out_features
        self.register_buffer("output", torch.randn(tokens, out_features, device=device).to(dtype), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (batch, 1, in) -> (batch, 1, out)."""
        return self.get_buffer("output").view(*x.shape[:-1], self.out_features)


def without_linears(config: PreTrainedConfig, batch: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The model of random weights, its quantizable layers absent. ValueError for a family that is not supported, or
    whose layers are slices of experts."""
    model: nn.Module = empty_model(config, dtype)
    for name, slot in whole_linears(model).items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, Absent(slot.parameter.shape[0], batch, dtype, device))
    draw_others(model, dtype, torch.Generator(device).manual_seed(0))
    return model.to(device).eval()


def step(
    model: nn.Module, config: PreTrainedConfig, batch: int, context: int, device: torch.device
) -> Callable[[], object]:
    """One token for each of `batch` sequences, in a static cache of `context`; the n-th call is at place n - 1, so that
    at most `context` calls are made."""
    cache = StaticCache(config=config, max_cache_len=context)
    tokens = torch.randint(0, config.get_text_config().vocab_size, (batch, 1), device=device)
    place = torch.full((batch, 1), context - 1, device=device)

    def work() -> object:
        with torch.no_grad():
            return model(
                input_ids=tokens, position_ids=place, cache_position=place[0], past_key_values=cache, use_cache=True
            ).logits

    return work


def lean_rest(
    config: PreTrainedConfig, batch: int, context: int, device: torch.device, *,
    head: str = "fp16", compiled: bool = True, attention: str = USUAL_ATTENTION, rotated: bool = True,
) -> LeanStep:  # fmt: skip
    """The lean step without its products. head: as of `random_model`; rotated: whether inputs of layers are.

    ValueError for a family that is not lean."""
    chosen = read_plan(STAND_INS[rotated], block_layers(config))
    generator = torch.Generator(device).manual_seed(0)
    model = random_model(config, chosen, head=head, dtype=torch.float16, generator=generator)
    return LeanStep(model, batch=batch, capacity=context, compiled=compiled, attention=attention, absent=True)


def reference_rest(config: PreTrainedConfig, batch: int, context: int, device: torch.device) -> list[float]:
    """A step of REFERENCE, all groups fused, less its products; several replays, us each."""
    layers, quantizer = block_layers(config), make_quantizer(REFERENCE)
    chosen = read_plan(f"{REFERENCE}:fused", layers)
    shapes = {name: (out, into) for name, out, into in layers[["layer", "out_features", "in_features"]].to_numpy()}
    of_units = [(sum(shapes[name][0] for name in unit), shapes[unit[0]][1]) for unit in chosen.units]
    way, pool = Packed(quantizer), random_pool(device)
    each = {shape: statistics.median(model_microseconds(way, pool, shape, batch)) for shape in set(of_units)}
    del pool
    torch.compiler.reset()  # compiled for one batch at a time
    model = random_model(
        config, chosen, head="fp16", dtype=torch.float16, generator=torch.Generator(device).manual_seed(0)
    )
    whole = LeanStep(model, batch=batch, capacity=context, compiled=True, attention=USUAL_ATTENTION)
    products = sum(each[shape] for shape in of_units)
    found = each_us(whole, replayed(whole, device), device, replays=REPLAYS, steps=STEPS)
    return [us - products for us in found]


def rest_microseconds(folder: str, batch: int, context: int, device: torch.device) -> list[float]:
    """Of one step, in each of several replays. folder: of config.json, or a hub id."""
    config = AutoConfig.from_pretrained(folder)
    if config.model_type in FAMILIES:
        return reference_rest(config, batch, context, device)
    model = without_linears(config, batch, device, torch.float16)
    replay = graphed(step(model, config, batch, context, device))

    def steps() -> None:
        for _ in range(STEPS):
            replay()

    return [us / STEPS for us in microseconds(steps, REPLAYS)]
