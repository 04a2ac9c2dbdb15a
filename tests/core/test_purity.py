"""The core is pure. Its modules pass through Temporal's sandbox unguarded, so this test is the guard: what
is not allowed here would run in a workflow and break its replay."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import perdure.content
import perdure.contract
import perdure.core
import perdure.definitions

CORE = sorted(Path(perdure.core.__file__).parent.glob("**/*.py"))
SHAPES = [Path(module.__file__) for module in (perdure.contract, perdure.content, perdure.definitions)]
STDLIB_ALLOWED = {
    "__future__",
    "collections.abc",
    "dataclasses",
    "fnmatch",  # globs over tool names: a function of its two strings; its cache of patterns changes no answer
    "typing",
}  # what is used; a new one is argued for here
CALLS_FORBIDDEN = {
    "open", "print", "input", "eval", "exec", "compile", "__import__",  # effects and code from elsewhere
    "id", "hash", "globals", "locals", "vars", "setattr", "delattr",  # differ by process, or change in place
}  # fmt: skip
MONEY = ("cost", "micros", "price", "usd", "tokens")
READ_ONLY = ("Mapping", "Sequence", "Collection", "Final", "tuple", "frozenset")


def impurities(source: str) -> list[str]:
    """What a module of the core may not do, one line each."""
    tree = ast.parse(source)
    return [*_imports(tree), *_calls(tree), *_set_orders(tree), *_global_state(tree), *_floats(tree)]


def _imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            if name not in STDLIB_ALLOWED and not name.startswith("perdure.core."):
                yield f"line {node.lineno}: imports {name}"


def _calls(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in CALLS_FORBIDDEN:
            yield f"line {node.lineno}: uses {node.id}"
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.Global | ast.Nonlocal):
            yield f"line {node.lineno}: {type(node).__name__}"


def _is_set(node: ast.expr, names: set[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.Call(func=ast.Name(id="list" | "tuple" | "enumerate" | "iter"), args=[first, *_]):
            return _is_set(first, names)
        case ast.Name(id=name):
            return name in names
    return False


def _set_orders(tree: ast.Module) -> Iterator[str]:
    """Iterating over a set gives an order that differs by process."""
    names = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and _is_set(node.value, set())
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=source) | ast.comprehension(iter=source) if _is_set(source, names):
                yield f"line {source.lineno}: iterates over a set"
            case ast.Call(func=ast.Name(id="list" | "tuple" | "iter") | ast.Attribute(attr="join"), args=[first, *_]):
                if _is_set(first, names):
                    yield f"line {first.lineno}: takes a set's order"


def _global_state(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        mutable = isinstance(node.value, ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)
        mutable = mutable or (
            isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and node.value.func.id in ("list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter")
        )
        read_only = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith(READ_ONLY)
        if mutable and not read_only:
            yield f"line {node.lineno}: mutable module state"
    for class_ in ast.walk(tree):
        marks = [ast.unparse(mark) for mark in class_.decorator_list] if isinstance(class_, ast.ClassDef) else []
        if any("dataclass" in mark and "frozen=True" not in mark for mark in marks):
            yield f"a dataclass is not frozen: {ast.unparse(class_).splitlines()[1]}"


def _floats(tree: ast.Module) -> Iterator[str]:
    """Money and tokens are integers, and nothing divides them into something else."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield f"line {node.lineno}: true division"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float":
            yield f"line {node.lineno}: makes a float"
        match node:
            case (
                ast.AnnAssign(target=ast.Name(id=name), annotation=kind)
                | ast.arg(arg=name, annotation=ast.expr() as kind)
            ):
                if any(word in name for word in MONEY) and "float" in ast.unparse(kind):
                    yield f"line {kind.lineno}: {name} is a float"


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_the_core_has_no_clock_no_chance_no_effect_and_no_memory(path: Path) -> None:
    assert impurities(path.read_text()) == []


@pytest.mark.parametrize("path", SHAPES, ids=lambda path: path.name)
def test_the_contract_needs_no_framework(path: Path) -> None:
    assert list(_imports(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "from datetime import datetime",
        "import random",
        "from perdure.contract import Message",
        "from . import settings",
        "import pydantic",
        "def f(): print('x')",
        "opener = open",
        "def f(x): return hash(x)",
        "for x in {1, 2}: pass",
        "names = set()\nfor name in names: pass",
        "def f(xs): return [x for x in set(xs)]",
        "def f(xs): return list(frozenset(xs))",
        "def f(xs): return ', '.join(set(xs))",
        "seen = []",
        "cache: dict[str, int] = {}",
        "n = 0\ndef f():\n    global n\n    n += 1",
        "async def f(): pass",
        "from dataclasses import dataclass\n@dataclass\nclass A: pass",
        "def f(cost_usd: float) -> int: return 1",
        "def f(a, b): return a / b",
    ],
)
def test_this_guard_sees(source: str) -> None:
    assert impurities(source) != []


@pytest.mark.parametrize(
    "source",
    [
        "from collections.abc import Mapping\nNAMES: Mapping[str, int] = {'a': 1}",
        "KNOWN: frozenset[str] = frozenset({'a'})\ndef f(x): return x in KNOWN",
        "def f(xs): return sorted(set(xs))",
        "timeout_seconds: float = 60.0",
    ],
)
def test_this_guard_lets_pass(source: str) -> None:
    assert impurities(source) == []
