"""Operations on eight float32 numbers at once, for compiled loops.

numba turns loops into vector instructions where it can prove that nothing overlaps in memory. In a
convolution it cannot, so these steps of one are written for LLVM. Addresses are in bytes.

numba keeps compiled loops until *their* file changes: after a change here, touch `winograd.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

WIDTH = 8
"""Numbers of a vector: what AVX2 computes at once."""
BYTES = 4 * WIDTH
LINE = 64
"""Bytes of a line of the cache."""
COLUMNS = 2 * WIDTH
"""Output channels that `multiply` computes at once."""
ROWS = 6
"""Rows that `multiply` computes at once: with two vectors each, they fill 12 of 16 registers."""
_UNROLLED = 4
"""Input channels that `multiply` adds per turn of its loop."""
NEAR, FAR = 0.75, 1.5
"""The points 0, ± `NEAR`, ± `FAR` and infinity at which the polynomials of F(4, 3) are multiplied.

Their powers are exact in float32. On random numbers the mean error is twice that of a direct
convolution; with the usual points 1 and 2 it is 2.7 times."""

_FLOAT, _ADDRESS = ir.FloatType(), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, WIDTH)
Value = Any
"""A value of LLVM's."""


class _Code:
    """Generates instructions on vectors."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def load(self, address: Value) -> Value:
        return self._aligned(self.builder.load(self._at(address, _VECTOR)))

    def store(self, vector: Value, address: Value) -> None:
        self._aligned(self.builder.store(vector, self._at(address, _VECTOR)))

    def repeated(self, address: Value) -> Value:
        """Fill a vector with the number at an address."""
        number = self._aligned(self.builder.load(self._at(address, _FLOAT)))
        undefined = ir.Constant(_VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
        all_first = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        return self.builder.shuffle_vector(first, undefined, all_first)

    def after(self, address: Value, step: Value | int) -> Value:
        """Return an address `step` bytes farther."""
        step = ir.Constant(_ADDRESS, step) if isinstance(step, int) else step
        return self.builder.add(address, step)

    def along(self, address: Value, step: Value, count: int) -> list[Value]:
        """Return so many addresses, `step` bytes apart."""
        found = [address]
        while len(found) < count:
            found.append(self.builder.add(found[-1], step))
        return found

    def constant(self, number: float) -> Value:
        return ir.Constant(_VECTOR, [ir.Constant(_FLOAT, float(np.float32(number)))] * WIDTH)

    def fused(self, factor: Value | float, x: Value, summand: Value) -> Value:
        """Return ``factor · x + summand``, rounded once."""
        factor = self.constant(factor) if isinstance(factor, float) else factor
        return self.called(f"llvm.fma.v{WIDTH}f32", _VECTOR, factor, x, summand)

    def added(self, *vectors: Value) -> Value:
        total, *others = vectors
        for vector in others:
            total = self.builder.fadd(total, vector)
        return total

    def clamped(self, vector: Value, low: Value) -> Value:
        """Return the larger of two, and NaN if `vector` is that."""
        return self.builder.select(self.builder.fcmp_ordered(">", low, vector), low, vector)

    def called(self, operation: str, result: Any, *arguments: Value) -> Value:
        """Call an operation of LLVM's that has a name instead of an instruction."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        get: Any = cgutils.get_or_insert_function
        return self.builder.call(get(self.builder.module, kind, operation), arguments)

    def _at(self, address: Value, kind: Any) -> Value:
        return self.builder.inttoptr(address, kind.as_pointer())

    @staticmethod
    def _aligned(access: Value) -> Value:
        access.align = 4
        return access


def _spread(code: _Code, *arguments: Value) -> None:
    """Evaluate eight polynomials, each with six voxels as coefficients, at the six points.

    Addresses of six vectors, address of the result at the first point, step to each next one.
    """
    *sources, out, step = arguments
    d = [code.load(source) for source in sources]
    near, far = NEAR**2, FAR**2

    def ends(first: Value, middle: Value, last: Value) -> Value:
        inner = code.fused(-(near + far), middle, last)
        return code.fused(near * far, first, inner)

    values = [ends(d[0], d[2], d[4])]
    for point, other in ((NEAR, far), (FAR, near)):
        even, odd = code.fused(-other, d[2], d[4]), code.fused(-other, d[1], d[3])
        values += [code.fused(point, odd, even), code.fused(-point, odd, even)]
    values.append(ends(d[1], d[3], d[5]))
    for value, place in zip(values, code.along(out, step, 6), strict=True):
        code.store(value, place)


def spread_kernel(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate kernels at the points, divided by what makes the result their convolution.

    Parameters
    ----------
    kernel
        float64 ``(..., 3)``.

    Returns
    -------
    float64 ``(..., 6)``.
    """
    points = np.array([0, NEAR, -NEAR, FAR, -FAR])
    others = points[:, None] - points + np.eye(len(points))
    rows = points[:, None] ** np.arange(3) / others.prod(axis=1)[:, None]
    found: NDArray[np.float64] = kernel @ np.vstack([rows, [0, 0, 1]]).T
    return found


def _gather(code: _Code, *arguments: Value) -> None:
    """Return from the six points to four voxels, and add the bias.

    Address of the products at the first point, step to each next one, address of the bias, four
    addresses of results; whether they are added to what is there; whether negative ones become 0.
    """
    source, step, bias, *places, onto, relu = arguments
    m = [code.load(place) for place in code.along(source, step, 6)]
    shift, builder = code.load(bias), code.builder
    near, far = code.added(m[1], m[2]), code.added(m[3], m[4])
    near_odd, far_odd = builder.fsub(m[1], m[2]), builder.fsub(m[3], m[4])

    def powers(a: Value, b: Value, power: int, summand: Value) -> Value:
        return code.fused(NEAR**power, a, code.fused(FAR**power, b, summand))

    results = [
        code.added(m[0], shift, near, far),
        powers(near_odd, far_odd, 1, shift),
        powers(near, far, 2, shift),
        powers(near_odd, far_odd, 3, code.added(m[5], shift)),
    ]
    lowest = builder.select(relu, code.constant(0), code.constant(-np.inf))
    with builder.if_else(onto) as (then, otherwise):
        with then:
            for result, place in zip(results, places, strict=True):
                code.store(code.clamped(code.added(result, code.load(place)), lowest), place)
        with otherwise:
            for result, place in zip(results, places, strict=True):
                code.store(code.clamped(result, lowest), place)


def _prefetch(code: _Code, address: Value) -> None:
    """Fetch the line of the cache at an address, which will be written."""
    place = code.builder.inttoptr(address, ir.IntType(8).as_pointer())
    flags = (ir.Constant(ir.IntType(32), n) for n in (1, 3, 1))
    code.called("llvm.prefetch.p0i8", ir.VoidType(), place, *flags)


def _multiply(code: _Code, *arguments: Value) -> None:
    """Multiply ``(ROWS, length)`` by ``(length, COLUMNS)``, which is contiguous.

    Address of the first matrix and step from row to row, address of the second, address of the
    result and step from row to row, length, a multiple of 4.
    """
    left, left_step, right, out, out_step, length = arguments
    builder, rows = code.builder, code.along(left, left_step, ROWS)
    before = builder.block
    turn, end = builder.append_basic_block("turn"), builder.append_basic_block("end")
    builder.branch(turn)
    builder.position_at_end(turn)
    start = builder.phi(_ADDRESS)
    start.add_incoming(ir.Constant(_ADDRESS, 0), before)
    sums = [builder.phi(_VECTOR) for _ in range(2 * ROWS)]
    for total in sums:
        total.add_incoming(code.constant(0), before)
    added = list(sums)
    for n in range(_UNROLLED):
        k = code.after(start, n)
        first = builder.add(right, builder.mul(k, ir.Constant(_ADDRESS, 2 * BYTES)))
        columns = [code.load(first), code.load(code.after(first, BYTES))]
        offset = builder.mul(k, ir.Constant(_ADDRESS, 4))
        for row, address in enumerate(rows):
            factor = code.repeated(builder.add(address, offset))
            for side, column in enumerate(columns):
                place = 2 * row + side
                added[place] = code.fused(factor, column, added[place])
    following = code.after(start, _UNROLLED)
    start.add_incoming(following, turn)
    for total, result in zip(sums, added, strict=True):
        total.add_incoming(result, turn)
    builder.cbranch(builder.icmp_signed("<", following, length), turn, end)
    builder.position_at_end(end)
    for row, place in enumerate(code.along(out, out_step, ROWS)):
        code.store(added[2 * row], place)
        code.store(added[2 * row + 1], code.after(place, BYTES))


def _operation(generate: Callable[..., None], numbers: int, flags: int = 0) -> Any:
    """Return what a compiled loop can call with so many addresses or numbers, and flags."""
    signature = types.void(*[types.int64] * numbers, *[types.boolean] * flags)

    def generated(context: Any, builder: Any, _: Any, arguments: Sequence[Value]) -> Value:
        generate(_Code(builder), *arguments)
        return context.get_dummy_value()

    def typed(_context: Any, *_arguments: Any) -> tuple[Any, Callable[..., Value]]:
        return signature, generated

    names = ["context", *(f"a{n}" for n in range(numbers + flags))]
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    typed.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # numba reads it
    return intrinsic(typed)


spread = _operation(_spread, 8)
prefetch = _operation(_prefetch, 1)
gather = _operation(_gather, 7, flags=2)
multiply = _operation(_multiply, 6)
