r"""Sixteen float32 lanes as one value in compiled code: one tile a lane, so that every loop of the search vectorizes.

numba leaves vectorization to LLVM, which must prove that arrays do not overlap and that a loop is worth it; the inner
loop of the Viterbi search is short and nested, and it gives up. Here a lane vector is a type of its own
(LLVM `<16 x float>`), which becomes one AVX-512, two AVX or four SSE or NEON registers. No operation is reordered and
none is fused, so the result is the same on all of them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)


class LaneType(types.Type):  # type: ignore[misc]
    """The numba type of a lane vector."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16f32")


lane_type = LaneType()


@register_model(LaneType)
class LaneModel(models.PrimitiveModel):  # type: ignore[misc]
    """A lane vector is held as the LLVM vector itself."""

    def __init__(self, dmm: Any, fe_type: LaneType) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """`array.ravel()[index : index + 16]` of a contiguous float32 array, unchecked."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], args[0], args[1])
        return builder.load(builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)

    return lane_type(array, types.intp), code


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """`array.ravel()[index : index + 16] = value`, unchecked."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, _VECTOR.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, lane_type), code


@intrinsic
def spread(typing: Any, value: Any) -> Any:
    """The float32 scalar in every lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        single = builder.insert_element(undefined, args[0], ir.Constant(ir.IntType(32), 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(single, undefined, zeros)

    return lane_type(types.float32), code


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane a + b."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return lane_type(lane_type, lane_type), code


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Lane by lane a * b + c, rounded once."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
        return builder.call(fma, args)

    return lane_type(lane_type, lane_type, lane_type), code


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane the smaller one."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[0], args[1])

    return lane_type(lane_type, lane_type), code
