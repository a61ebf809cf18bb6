"""Models as sources of weights: load from safetensors, the hub or GGUF, list the layers, cut text into windows."""

from quantizers.models.families import FAMILIES, Family
from quantizers.models.loading import LoadedModel, load_model
from quantizers.models.location import resolve_model
from quantizers.models.slots import LinearSlot, chosen_slots, inventory, linear_slots
from quantizers.models.text import TextSplit, load_text, token_windows

__all__ = [
    "FAMILIES",
    "Family",
    "LinearSlot",
    "LoadedModel",
    "TextSplit",
    "chosen_slots",
    "inventory",
    "linear_slots",
    "load_model",
    "load_text",
    "resolve_model",
    "token_windows",
]
