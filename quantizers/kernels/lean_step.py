r"""One decoding step of a model of the Llama kind, lean: five launches a block besides its products.

    tokens -> embed -> { norm, q k v, rotary and cache, attention, o; norm, gate up, activation, down } -> norm, head

It takes the modules of a loaded or random model (packed, fused, 16 bits), embedding and head too. Norms and the
activation are part of the rotation of what products read (`block_rotation`); without one torch.compile makes a kernel
each of them (`lean_glue`). Its state is static: tokens, place, caches; a CUDA graph of one call is the step of every
token. The greedy token of each sequence is left in `tokens`, the place stays where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers import Cache

from quantizers.kernels import block_rotation, lean_glue
from quantizers.kernels.block_rotation import Source
from quantizers.kernels.int8_head import Int8Head, int8_product
from quantizers.kernels.lean_products import Absent, Group, Plainly, products_of
from quantizers.kernels.place import Place
from quantizers.models.families import HEAD

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # whose blocks are what this file computes
HEAD_NORMS = ("qwen3",)
# Of steps, and of the row `constant` of latency.csv: triton has the fewest launches
USUAL_ATTENTION = "triton" if find_spec("triton") else "masked"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Weights of norms (n,), of the norms of heads (d,), the caches (batch, key heads, capacity, d), and products."""

    attention_norm: torch.Tensor
    mlp_norm: torch.Tensor
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    keys: torch.Tensor
    values: torch.Tensor
    qkv: Group
    o: Group
    gate_up: Group
    down: Group


def check_family(config: Any, capacity: int) -> None:
    """ValueError unless the blocks of this config are those that a lean step computes."""
    if config.model_type not in FAMILIES:
        raise ValueError(f"no lean step for {config.model_type}; {', '.join(FAMILIES)} have one (--step transformers)")
    window = getattr(config, "sliding_window", None)
    if window is not None and window < capacity and getattr(config, "use_sliding_window", True):
        raise ValueError(f"a window of {window} tokens is shorter than the context of {capacity} (--step transformers)")
    if config.hidden_act not in ("silu", "swish"):
        raise ValueError(f"the activation {config.hidden_act} is not silu (--step transformers)")


class LeanStep:
    """`batch` sequences, `capacity` tokens of cache. compiled: glue by torch.compile; attention: a key
    of ATTENTION."""

    def __init__(
        self, model: nn.Module, *, batch: int, capacity: int, compiled: bool, attention: str, absent: bool = False
    ) -> None:
        """absent: the products of the blocks take no time, their rotations and all else do. ValueError for a family
        that is not lean."""
        config: Any = model.config
        check_family(config, capacity)
        if attention not in ATTENTION:
            raise ValueError(f"attention {attention!r} is none of {', '.join(ATTENTION)}")
        body: Any = model.get_submodule("model")
        self._embed, self._last_norm = body.embed_tokens, body.norm.weight.detach()
        self._dtype, self._device = self._last_norm.dtype, self._last_norm.device
        self._eps = float(config.rms_norm_eps)
        self.capacity = capacity
        self.tokens = torch.zeros(batch, dtype=torch.int64, device=self._device)
        self.place = torch.full((1,), capacity - 1, dtype=torch.int64, device=self._device)
        positions = torch.arange(capacity, device=self._device)[None]
        cos, sin = body.rotary_emb(torch.zeros(1, dtype=torch.float32, device=self._device), positions)
        self._cos, self._sin = cos[0], sin[0]
        self._norm, self._add_norm = glue(lean_glue.norm, compiled), glue(lean_glue.add_norm, compiled)
        self._activate, self._greedy = glue(lean_glue.activate, compiled), glue(lean_glue.greedy, compiled)
        self._blocks = [self._block(layer, config, batch, absent) for layer in body.layers]
        self._head = head_of(model, self._plain, compiled)
        self._attend = ATTENTION[attention](compiled)

    def _block(self, layer: Any, config: Any, batch: int, absent: bool) -> Block:
        attention, mlp = layer.self_attn, layer.mlp
        shape = batch, config.num_key_value_heads, self.capacity, attention.head_dim
        caches = [torch.zeros(shape, dtype=self._dtype, device=self._device) for _ in range(2)]

        def group(holder: nn.Module, *names: str, last: Place = Place.BETWEEN_ROTATIONS) -> Group:
            products = products_of(holder, names)
            if absent:
                products = [Absent.like(product, batch, self._dtype, self._device) for product in products]
            return Group(products, self._plain, last)

        normed = config.model_type in HEAD_NORMS
        return Block(
            attention_norm=layer.input_layernorm.weight.detach(),
            mlp_norm=layer.post_attention_layernorm.weight.detach(),
            q_norm=attention.q_norm.weight.detach() if normed else None,
            k_norm=attention.k_norm.weight.detach() if normed else None,
            keys=caches[0],
            values=caches[1],
            qkv=group(attention, "q_proj", "k_proj", "v_proj", last=Place.BEFORE_ATTENTION),
            o=group(attention, "o_proj"),
            gate_up=group(mlp, "gate_proj", "up_proj"),
            down=group(mlp, "down_proj"),
        )

    @property
    def cache_bytes(self) -> int:
        """Of keys and values, all blocks."""
        return sum(t.numel() * t.element_size() for block in self._blocks for t in (block.keys, block.values))

    def fill(self, cache: Cache) -> None:
        """Take over the keys and values of a prompt, of the same batch, from place 0 on."""
        for block, layer in zip(self._blocks, cache.layers, strict=True):
            length = layer.keys.shape[2]
            block.keys[:, :, :length].copy_(layer.keys)
            block.values[:, :, :length].copy_(layer.values)

    def rewind(self, calls: int) -> None:
        """Any number of calls is at the last place."""
        self.place.fill_(self.capacity - 1)

    @torch.no_grad()
    def __call__(self) -> torch.Tensor:
        """Logits (batch, vocabulary) of `tokens` at `place`; their greedy successors are then in `tokens`."""
        h: torch.Tensor = self._embed(self.tokens)
        delta: torch.Tensor | None = None
        for block in self._blocks:
            h, delta = self._through(block, h, delta)
        logits = self._head(self._normed(h, delta, self._last_norm))
        self._greedy(logits, self.tokens)
        return logits

    def _through(self, block: Block, h: torch.Tensor, delta: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The stream h + delta -> the same behind the block."""
        y, h = block.qkv(self._normed(h, delta, block.attention_norm))
        mixed = self._attend(
            y["q_proj"], y["k_proj"], y["v_proj"], self._cos, self._sin, self.place,
            block.keys, block.values, block.q_norm, block.k_norm, self._eps,
        )  # fmt: skip
        o = block.o(block_rotation.plain(mixed))[0]["o_proj"]
        y, h = block.gate_up(self._normed(h, o, block.mlp_norm))
        return h, block.down(block_rotation.gated(y["gate_proj"], y["up_proj"]))[0]["down_proj"]

    def _normed(self, h: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor) -> Source:
        return block_rotation.normed(h, delta, weight, self._eps)

    def _plain(self, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
        """f of a source without its rotation, and x + delta of one that adds, its first tensor otherwise."""
        first, second = source.first, source.second
        if source.kind == block_rotation.PLAIN:
            return first, first
        if source.kind == block_rotation.GATED:
            return self._activate(first, second), first
        if source.kind == block_rotation.NORM:
            return self._norm(first, source.weight, source.eps), first
        h, n = self._add_norm(first, second, source.weight, source.eps)
        return n, h


def glue(function: Callable[..., Any], compiled: bool) -> Callable[..., Any]:
    """The function as one kernel or a few; shapes are known, so that it is compiled for them."""
    return torch.compile(function, fullgraph=True, dynamic=False) if compiled else function


def masked(compiled: bool) -> Callable[..., torch.Tensor]:
    """Attention for any place, by torch.compile. Arguments of the result: of `lean_glue.place_token`."""
    place_token, attend = glue(lean_glue.place_token, compiled), glue(lean_glue.masked_attention, compiled)

    def both(q, k, v, cos, sin, place, keys, values, *norms):  # type: ignore[no-untyped-def]
        return attend(place_token(q, k, v, cos, sin, place, keys, values, *norms), keys, values, place)

    return both


def full(compiled: bool) -> Callable[..., torch.Tensor]:
    """Attention for the last place alone, by PyTorch's own kernels."""
    place_token = glue(lean_glue.place_token, compiled)

    def both(q, k, v, cos, sin, place, keys, values, *norms):  # type: ignore[no-untyped-def]
        turned = place_token(q, k, v, cos, sin, place, keys, values, *norms)
        return lean_glue.full_attention(turned, keys, values)

    return both


def by_triton(compiled: bool) -> Callable[..., torch.Tensor]:
    """Attention for any place in one launch. ValueError where Triton is not installed."""
    try:
        from quantizers.kernels.decode_attention import PlacedAttention
    except ModuleNotFoundError as error:
        raise ValueError(f"attention by triton: {error} (masked and full need none)") from None
    return PlacedAttention()


ATTENTION: Mapping[str, Callable[[bool], Callable[..., torch.Tensor]]] = {
    "masked": masked,
    "full": full,
    "triton": by_triton,
}


def head_of(model: nn.Module, plain: Plainly, compiled: bool) -> Callable[[Source], torch.Tensor]:
    """Source -> logits. A head of 8 bits is one kernel by torch.compile; others are products."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    if isinstance(head, Int8Head):
        product, codes, scale = glue(int8_product, compiled), head.get_buffer("codes"), head.get_buffer("row_scale")
        return lambda source: product(plain(source)[0], codes, scale)
    group = Group(products_of(model, [HEAD]), plain)
    return lambda source: group(source)[0][HEAD]
