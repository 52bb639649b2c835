"""Python source files that are on this machine already: of the standard library and of installed packages.

They are found and parsed; nothing is imported, so nothing runs.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path

# tests, vendored and generated code, and folders whose docstrings are about themselves rather than the library
SKIPPED = frozenset(
    {
        "__phello__",
        "__pycache__",
        "_bundled",
        "_vendor",
        "dist-packages",
        "encodings",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
STDLIB = "stdlib"  # stands for the whole standard library

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | Function


def stdlib() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def source_files(folder: Path) -> Iterator[Path]:
    """The .py files below a folder, in no order."""
    for path in folder.iterdir():
        if path.is_dir() and path.name not in SKIPPED:
            yield from source_files(path)
        elif path.suffix == ".py":
            yield path


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by their dotted names, in order; none where it is not installed.

    package: "stdlib", a package or module ("json", "numpy"), or a part of one ("torch.nn").
    """
    if package == STDLIB:
        root = stdlib()
        return {module_name(file.relative_to(root)): file for file in sorted(source_files(root))}
    top, *inner = package.split(".")
    spec = PathFinder.find_spec(top, sys.path)  # only looks: the package's own code would run for "torch.nn"
    if spec is None or spec.origin is None:
        return {}
    origin = Path(spec.origin)
    if not spec.submodule_search_locations:
        return {package: origin} if origin.suffix == ".py" and not inner else {}
    folder = origin.parent.joinpath(*inner)
    root = origin.parent.parent
    if folder.is_dir():
        return {module_name(file.relative_to(root)): file for file in sorted(source_files(folder))}
    module = folder.with_name(f"{folder.name}.py")
    return {package: module} if module.is_file() else {}


def module_name(path: Path) -> str:
    names = path.with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def parse(file: Path) -> ast.Module:
    with warnings.catch_warnings():
        # e.g. an invalid escape sequence: the library's own affair
        warnings.simplefilter("ignore")
        return ast.parse(file.read_bytes(), filename=str(file))


def documented(tree: ast.Module, module: str) -> Iterator[tuple[Documented, str]]:
    """The module, its classes and their methods, and its functions, with dotted names, in the order of the source."""
    waiting: list[tuple[Documented, str]] = [(tree, module)]
    while waiting:
        node, name = waiting.pop()
        yield node, name
        inner = [
            child for child in node.body if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        waiting += [(child, f"{name}.{child.name}") for child in reversed(inner)]


def heading(node: Documented, name: str) -> str:
    """The line that says what an object is: `def name(parameters) -> result`."""
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {name}({bases})" if bases else f"class {name}"
    keyword = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{keyword} {name}({ast.unparse(node.args)}){returns}"
