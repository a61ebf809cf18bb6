"""How much the loss grows per unit of distortion of each layer: one method a file, all with `measure`."""

from alloc.sensitivity.calibrated import Calibrated
from alloc.sensitivity.constant import Constant
from alloc.sensitivity.fisher import Fisher
from alloc.sensitivity.hessian_trace import HessianTrace
from alloc.sensitivity.layer_cosine import LayerCosine
from alloc.sensitivity.noise import Noise

METHODS = (Fisher, Noise, Calibrated, HessianTrace, LayerCosine, Constant)

__all__ = ["METHODS", "Calibrated", "Constant", "Fisher", "HessianTrace", "LayerCosine", "Noise"]
