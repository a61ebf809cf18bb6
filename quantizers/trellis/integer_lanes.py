r"""Sixteen int32 lanes as one value in compiled code, as `quantizers.trellis.lanes` has them of float32.

A lane vector is LLVM's `<16 x i32>`: one AVX-512, two AVX or four SSE or NEON registers. Whole numbers are exact in any
order, and leave their low bits to a mark that a minimum carries along."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic, models, register_model

LANES = 16
_INTEGER = ir.IntType(32)
_VECTOR = ir.VectorType(_INTEGER, LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


class IntegerLaneType(types.Type):  # type: ignore[misc]
    """The numba type of a vector of integer lanes."""

    def __init__(self) -> None:
        super().__init__(name="Lanes16i32")


lane_type = IntegerLaneType()


@register_model(IntegerLaneType)
class IntegerLaneModel(models.PrimitiveModel):  # type: ignore[misc]
    """A lane vector is held as the LLVM vector itself."""

    def __init__(self, dmm: Any, fe_type: IntegerLaneType) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """`array.ravel()[index : index + 16]` of a contiguous int32 array, unchecked."""

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
def store_bytes(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """The low byte of every lane to `array.ravel()[index : index + 16]`, uint8, unchecked."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(builder.trunc(args[2], _BYTES), builder.bitcast(pointer, _BYTES.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, lane_type), code


def _spread(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(_VECTOR, [0] * LANES))


@intrinsic
def spread(typing: Any, value: Any) -> Any:
    """The int32 scalar in every lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, args[0])

    return lane_type(types.int32), code


@intrinsic
def spread_at(typing: Any, array: Any, index: Any) -> Any:
    """`array.ravel()[index]` of a contiguous int32 array in every lane, unchecked."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, builder.load(_address(context, builder, signature.args[0], args[0], args[1])))

    return lane_type(array, types.intp), code


@intrinsic
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane a - b."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sub(args[0], args[1])

    return lane_type(lane_type, lane_type), code


@intrinsic
def add_square(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane a + b * b."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(args[0], builder.mul(args[1], args[1]))

    return lane_type(lane_type, lane_type), code


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane the smaller one."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.icmp_signed("<", args[0], args[1]), args[0], args[1])

    return lane_type(lane_type, lane_type), code


@intrinsic
def both(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane the bits that are in a and in b."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.and_(args[0], args[1])

    return lane_type(lane_type, lane_type), code


@intrinsic
def either(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane the bits that are in a or in b."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.or_(args[0], args[1])

    return lane_type(lane_type, lane_type), code
