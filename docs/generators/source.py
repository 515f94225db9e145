"""What only the source text tells: docstrings of attributes, calls with their literal arguments."""

import ast
import functools
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the docstrings below the attributes of a class and of its bases, by attribute."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] in {"services", "cli"}:
            found |= _docs_in(ast.parse(textwrap.dedent(inspect.getsource(base))).body[0])
    return found


def calls(folders: tuple[str, ...], names: frozenset[str]) -> Iterator[tuple[Path, str, ast.Call]]:
    """Return every call of one of these names below the folders: file, name, call; in a fixed order."""
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for name, node in _calls_in(file):
                if name in names:
                    yield file.relative_to(ROOT), name, node


def literal(node: ast.expr | None) -> str:
    """Return the text that a node is, or nothing where it is made at run time."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


@functools.cache
def _calls_in(file: Path) -> tuple[tuple[str, ast.Call], ...]:
    nodes = ast.walk(ast.parse(file.read_text("utf-8")))
    return tuple((one.func.id, one) for one in nodes if isinstance(one, ast.Call) and isinstance(one.func, ast.Name))


def _docs_in(node: ast.stmt) -> dict[str, str]:
    found: dict[str, str] = {}
    body = node.body if isinstance(node, ast.ClassDef) else []
    for one, following in itertools.pairwise(body):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and isinstance(following, ast.Expr):
            text = literal(following.value)
            if text:
                found[one.target.id] = " ".join(text.split())
    return found
