"""tools: how large the system is, room by room; the last line says whether the kernel keeps its budget."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

TREE = Path(__file__).resolve().parent.parent
KERNEL = ("record", "log", "stage")
APART = {"kafka", "memory", "segments", "upkeep"}
"""Of the log, the engine of one machine belongs to the kernel: all that it needs to append, read and commit. The
other engines, sealed files and upkeep stand beside it."""
BUDGET = 2000

_BLANK = {
    tokenize.COMMENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER,
    tokenize.INDENT, tokenize.NEWLINE, tokenize.NL,
}  # fmt: skip
_HEAD = "room files code docs functions p50 p90 max annotated broad/1000 test/code".split()

_Function = ast.FunctionDef | ast.AsyncFunctionDef


class Size(NamedTuple):
    """What was counted in some files. Lines of code leave out blank lines, comments and docstrings."""

    files: int
    code: int
    docs: int  # comments and docstrings
    bodies: list[int]  # lines of code in each function's body, ascending
    annotated: int  # functions with every argument and the answer typed
    broad: int  # handlers of every exception


def measure(files: Iterable[Path]) -> Size:
    """Count the given Python files."""
    each = [_measure(file.read_text()) for file in files]
    bodies = sorted(length for size in each for length in size.bodies)
    return Size(
        len(each),
        sum(size.code for size in each),
        sum(size.docs for size in each),
        bodies,
        sum(size.annotated for size in each),
        sum(size.broad for size in each),
    )


def rooms(tree: Path = TREE) -> list[str]:
    """The packages under penstock, by name."""
    return sorted(path.parent.name for path in tree.glob("penstock/*/__init__.py"))


def room(name: str, tree: Path = TREE) -> Size:
    """The size of one room."""
    return measure(tree.glob(f"penstock/{name}/**/*.py"))


def kernel(tree: Path = TREE) -> Size:
    """The size of what everything else stands on."""
    files = [path for name in KERNEL for path in tree.glob(f"penstock/{name}/**/*.py")]
    return measure(path for path in files if not APART & {path.stem, path.parent.name})


def kernel_lines(tree: Path = TREE) -> int:
    """Lines of code in what everything else stands on."""
    return kernel(tree).code


def _measure(text: str) -> Size:
    module = ast.parse(text)
    spoken = _docstring_lines(module)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    code = {
        line
        for token in tokens
        if token.type not in _BLANK
        for line in range(token.start[0], token.end[0] + 1)
    } - spoken
    comments = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    functions = [node for node in ast.walk(module) if isinstance(node, _Function)]
    handlers = [node for node in ast.walk(module) if isinstance(node, ast.ExceptHandler)]
    return Size(
        1,
        len(code),
        len(spoken | (comments - code)),
        [_body_lines(function, code) for function in functions],
        sum(map(_is_annotated, functions)),
        sum(map(_is_broad, handlers)),
    )


def _docstring_lines(module: ast.Module) -> set[int]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    first = [node.body[0] for node in ast.walk(module) if isinstance(node, documented) and node.body]
    return {line for node in first if _is_text(node) for line in _span(node)}


def _is_text(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _body_lines(function: _Function, code: set[int]) -> int:
    return len(code & {line for node in function.body for line in _span(node)})


def _is_annotated(function: _Function) -> bool:
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    typed = [one for one in named if one.annotation or one.arg in ("self", "cls")]
    return function.returns is not None and len(typed) == len(named)


def _is_broad(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    named = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)}
    return bool(named & {"Exception", "BaseException"})


def table(tree: Path = TREE) -> list[list[str]]:
    """One row per room with the tests that bear its name, then all of penstock with all tests."""
    tests = list(tree.glob("tests/**/*.py"))
    each = [
        _row(name, room(name, tree), measure(path for path in tests if _bears(path, name)))
        for name in rooms(tree)
    ]
    return [_HEAD, *each, _row("all", measure(tree.glob("penstock/**/*.py")), measure(tests))]


def _bears(test: Path, name: str) -> bool:
    return test.parent.name == name or test.stem.startswith(f"test_{name}")


def _row(name: str, size: Size, tests: Size) -> list[str]:
    n, code = len(size.bodies), max(1, size.code)
    quantile = [size.bodies[min(n - 1, int(n * q))] if n else 0 for q in (0.5, 0.9, 1.0)]
    share = f"{size.annotated / max(1, n):.0%}"
    ratio = (f"{1000 * size.broad / code:.1f}", f"{tests.code / code:.1f}")
    return [name, *map(str, (size.files, size.code, size.docs, n, *quantile)), share, *ratio]


def _aligned(rows: Sequence[list[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        yield "  ".join([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])])


def main() -> int:
    """Print the table; 1 when the kernel is larger than its budget."""
    found = kernel()
    fits = found.code <= BUDGET
    print(*_aligned(table()), sep="\n")
    print(f"\nkernel_lines_with_docs {found.code + found.docs}")
    print(f"kernel_lines {found.code} {BUDGET} {'ok' if fits else 'short'}")
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(main())
