r"""Sixteen float32 or int32 lanes as one value in compiled code: one tile a lane, so that every loop vectorizes.

numba leaves vectorization to LLVM, which must prove that arrays do not overlap and that a loop is worth it; the inner
loop of the Viterbi search is short and nested, and it gives up. Here a lane vector is a type of its own (LLVM
`<16 x float>`, `<16 x i32>`), which becomes one AVX-512, two AVX or four SSE or NEON registers. No operation is
reordered and none is fused unasked, so the result is the same on all of them. Whole numbers are exact in any order, and
leave their low bits to a mark that a minimum carries along.

Arrays are contiguous and are read and written unchecked, `array.ravel()[index : index + 16]`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16
_ELEMENTS = {types.float32: ir.FloatType(), types.int32: ir.IntType(32)}
_VECTORS = {element: ir.VectorType(kind, LANES) for element, kind in _ELEMENTS.items()}
_PLACES = ir.VectorType(ir.IntType(32), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


class LaneType(types.Type):  # type: ignore[misc]
    """The numba type of a vector of lanes that hold this scalar, float32 or int32."""

    def __init__(self, element: Any) -> None:
        self.element = element
        super().__init__(name=f"Lanes{LANES}({element})")


floats, integers = LaneType(types.float32), LaneType(types.int32)
_LANES = {types.float32: floats, types.int32: integers}


@register_model(LaneType)
class LaneModel(models.PrimitiveModel):  # type: ignore[misc]
    """A lane vector is held as the LLVM vector itself."""

    def __init__(self, dmm: Any, fe_type: LaneType) -> None:
        super().__init__(dmm, fe_type, _VECTORS[fe_type.element])


def _address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [index])


def _spread(builder: Any, scalar: Any) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, LANES), ir.Undefined)
    single = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(_PLACES, [0] * LANES))


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Lanes of the array's kind from the array."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], args[0], args[1])
        vector = _VECTORS[signature.args[0].dtype]
        return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)

    return _LANES[array.dtype](array, types.intp), code


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """The lanes into the array, of their kind."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, args[2].type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _LANES[array.dtype]), code


@intrinsic
def store_bytes(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """The low byte of every integer lane into the array, uint8."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(builder.trunc(args[2], _BYTES), builder.bitcast(pointer, _BYTES.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, integers), code


@intrinsic
def spread(typing: Any, value: Any) -> Any:
    """The scalar, float32 or int32, in every lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, args[0])

    return _LANES[value](value), code


@intrinsic
def spread_at(typing: Any, array: Any, index: Any) -> Any:
    """`array.ravel()[index]` in every lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _spread(builder, builder.load(_address(context, builder, signature.args[0], args[0], args[1])))

    return _LANES[array.dtype](array, types.intp), code


@intrinsic
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane the smaller one, of two kinds alike."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        compare = builder.fcmp_ordered if signature.return_type == floats else builder.icmp_signed
        return builder.select(compare("<", args[0], args[1]), args[0], args[1])

    return a(a, a), code


@intrinsic
def add(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane a + b, floats."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fadd(args[0], args[1])

    return floats(floats, floats), code


@intrinsic
def multiply_add(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Lane by lane a * b + c, floats, rounded once."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(args[0].type, [args[0].type] * 3)
        fma = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32")
        return builder.call(fma, args)

    return floats(floats, floats, floats), code


@intrinsic
def subtract(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane a - b, integers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.sub(args[0], args[1])

    return integers(integers, integers), code


@intrinsic
def add_square(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane a + b * b, integers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.add(args[0], builder.mul(args[1], args[1]))

    return integers(integers, integers), code


@intrinsic
def both(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane the bits that are in a and in b, integers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.and_(args[0], args[1])

    return integers(integers, integers), code


@intrinsic
def either(typing: Any, a: Any, b: Any) -> Any:
    """Lane by lane the bits that are in a or in b, integers."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.or_(args[0], args[1])

    return integers(integers, integers), code
