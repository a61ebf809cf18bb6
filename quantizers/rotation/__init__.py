"""Randomized Hadamard rotation of the inputs of a layer: makes the rows of its weight near Gaussian."""

from quantizers.rotation.gaussianity import gaussianity, kurtosis
from quantizers.rotation.hadamard import hadamard_factors, hadamard_matrix
from quantizers.rotation.signs import random_signs
from quantizers.rotation.transform import MOST_BLOCK, Rotation

__all__ = [
    "MOST_BLOCK",
    "Rotation",
    "gaussianity",
    "hadamard_factors",
    "hadamard_matrix",
    "kurtosis",
    "random_signs",
]
