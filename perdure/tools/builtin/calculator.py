"""``calculator``: arithmetic on a syntax tree of its own choosing; nothing is ever handed to ``eval``.

Every step is bounded before it is computed, so that no expression takes more than a moment. Integers are
exact; other numbers are floats, shown with 15 significant digits (0.1 + 0.2 is 0.3).
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Annotated

from pydantic import Field

from perdure.tools.function_tool import AnyTool, tool
from perdure.tools.port import ToolTrouble

Number = int | float

EXPRESSION_CHARS_MAX = 1_000  # longer ones are programs, not arithmetic
_DEPTH_MAX = 100  # far below Python's own recursion limit
_INTEGER_BITS_MAX = 10_000  # about 3,000 digits: below Python's limit of 4,300 for printing an integer
_ROUND_DIGITS_MAX = 400  # a float has no digits beyond; round() would compute 10 to this power

_CONSTANTS: dict[str, Number] = {"pi": math.pi, "e": math.e}


class _Refused(Exception):
    """Why an expression is not computed, in words for the model."""


@tool(effect="read", timeout_seconds=5)
def calculator(
    expression: Annotated[str, Field(description="for example (2 + 3) * 4 ** 2 / sqrt(2)")],
) -> str:
    """Compute an arithmetic expression: + - * / // % ** and parentheses; abs, round, min, max, sqrt, floor,
    ceil, log (natural, or log(x, base)), exp, sin, cos, tan (radians); pi, e."""
    try:
        return _shown(evaluate(expression))
    except _Refused as refused:
        raise ToolTrouble(str(refused), code="invalid_expression") from None


def calculator_tools() -> list[AnyTool]:
    return [calculator]


def evaluate(expression: str) -> Number:
    if len(expression) > EXPRESSION_CHARS_MAX:
        raise _Refused(f"the expression has {len(expression)} characters; {EXPRESSION_CHARS_MAX} are allowed")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise _Refused(f"this is no arithmetic expression: {error.msg} at character {error.offset or 0}") from None
    except (ValueError, RecursionError, MemoryError):  # NUL characters, or nesting beyond the parser
        raise _Refused("this is no arithmetic expression: it cannot be parsed") from None
    return _value(tree.body, 0)


def _value(node: ast.expr, depth: int) -> Number:
    if depth > _DEPTH_MAX:
        raise _Refused(f"the expression is nested deeper than {_DEPTH_MAX} levels")
    match node:
        case ast.Constant(value=bool()):
            raise _Refused("True and False are no numbers here")
        case ast.Constant(value=int() | float() as number):
            return _bounded(number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Name(id=name):
            raise _Refused(f"unknown name {name!r}; known are {', '.join([*_CONSTANTS, *_FUNCTIONS])}")
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return +_value(operand, depth + 1)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, depth + 1)
        case ast.BinOp(op=ast.BitXor()):
            raise _Refused("^ is not supported; write ** for a power")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            a, b = _value(left, depth + 1), _value(right, depth + 1)
            return _computed(_OPERATORS[type(op)], a, b)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            function, least, most = _FUNCTIONS[name]
            if not least <= len(arguments) <= most:
                raise _Refused(f"{name} takes {least if least == most else f'{least} to {most}'} values")
            return _computed(function, *(_value(argument, depth + 1) for argument in arguments))
        case ast.Call(func=ast.Name(id=name)) if name in _FUNCTIONS:
            raise _Refused(f"{name} takes plain values, without names")
        case ast.Call(func=ast.Name(id=name)):
            raise _Refused(f"unknown function {name!r}; known are {', '.join(_FUNCTIONS)}")
        case _:
            raise _Refused(f"only arithmetic is supported, not `{type(node).__name__}`")


def _computed(function: Callable[..., Number], *values: Number) -> Number:
    try:
        return _bounded(function(*values))
    except ZeroDivisionError:
        raise _Refused("division by zero") from None
    except OverflowError:
        raise _Refused("the result is too large") from None
    except (ValueError, TypeError) as error:
        raise _Refused(f"{function.__name__.strip('_')}: {error}") from None


def _bounded(number: Number) -> Number:
    match number:
        case complex():
            raise _Refused("the result is no real number")
        case int() if number.bit_length() > _INTEGER_BITS_MAX:
            raise OverflowError
        case float() if not math.isfinite(number):
            raise _Refused("the number is too large")
    return number


def _times(a: Number, b: Number) -> Number:
    _refuse_bits(a, b, lambda x, y: x.bit_length() + y.bit_length() - 1)
    return a * b


def _power(a: Number, b: Number) -> Number:
    if isinstance(b, int) and b > 0:
        _refuse_bits(a, b, lambda x, y: (x.bit_length() - 1) * y if abs(x) > 1 else 0)
    result: Number = a**b
    return result


def _refuse_bits(a: Number, b: Number, bits: Callable[[int, int], int]) -> None:
    """Refuse before computing: the result's size is known from its parts."""
    if isinstance(a, int) and isinstance(b, int) and bits(a, b) > _INTEGER_BITS_MAX:
        raise OverflowError


def _round(number: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or abs(digits) > _ROUND_DIGITS_MAX:
        raise _Refused(f"round: digits must be a whole number between -{_ROUND_DIGITS_MAX} and {_ROUND_DIGITS_MAX}")
    return round(number, digits) if digits else round(number)


_OPERATORS: dict[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _times,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}

_FUNCTIONS: dict[str, tuple[Callable[..., Number], int, int]] = {
    "abs": (abs, 1, 1),
    "round": (_round, 1, 2),
    "min": (min, 2, 100),
    "max": (max, 2, 100),
    "sqrt": (math.sqrt, 1, 1),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "log": (math.log, 1, 2),
    "exp": (math.exp, 1, 1),
    "sin": (math.sin, 1, 1),
    "cos": (math.cos, 1, 1),
    "tan": (math.tan, 1, 1),
}


def _shown(number: Number) -> str:
    return str(number) if isinstance(number, int) else format(number, ".15g")
