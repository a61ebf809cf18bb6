"""Error feedback: codes that keep the outputs of a layer, not its weights (`quantizers.feedback.method`).

METHODS lists the methods; `Correction` is one with the second moments that it reads."""

from quantizers.feedback.correction import PLAIN, Correction
from quantizers.feedback.ldlq import Ldlq
from quantizers.feedback.method import Feedback, weighted_energy
from quantizers.feedback.moments import SecondMoments, write_settings
from quantizers.feedback.plain import Plain
from quantizers.feedback.quantease import QuantEase
from quantizers.feedback.token_weights import AttentionConcentration, TokenWeights, Uniform

METHODS: tuple[type[Feedback], ...] = (Plain, Ldlq, QuantEase)
TOKEN_WEIGHTS: tuple[type[TokenWeights], ...] = (Uniform, AttentionConcentration)

__all__ = [
    "METHODS",
    "PLAIN",
    "TOKEN_WEIGHTS",
    "AttentionConcentration",
    "Correction",
    "Feedback",
    "Ldlq",
    "Plain",
    "QuantEase",
    "SecondMoments",
    "TokenWeights",
    "Uniform",
    "weighted_energy",
    "write_settings",
]
