"""app: the modules that lie beside a pipeline file: kept with its text, so that what a home deploys is all of it.

A file that imports nothing from its folder is its text. One that does is its text and theirs in one blob, and
its digest is over both: a version is rebuilt from the modules that it was trained with, whatever lies in the
folder by then. They are loaded under names of their own, so that two states of them may be in use side by side.
"""

from __future__ import annotations

import ast
import builtins
import importlib.abc
import importlib.machinery
import linecache
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.record.codec import pack, unpack

HEAD = b"\x00penstock with modules\n"
"""No text of Python begins so."""
OTHERS = sys.stdlib_module_names | {"penstock"}


class Bundle(msgspec.Struct, frozen=True):
    """A pipeline file's text and those of the modules beside it, by their paths in its folder."""

    text: bytes
    modules: dict[str, bytes] = {}


def gathered(path: Path) -> bytes:
    """A pipeline file as it is deployed: its text, with the modules that it imports from its folder."""
    text, found = path.read_bytes(), dict[str, bytes]()
    waiting = [(text, "")]
    while waiting:
        some, package = waiting.pop()
        for name in _imported(some, package):
            for place in _files(path.parent, name):
                if place not in found and path.parent / place != path:
                    found[place] = (path.parent / place).read_bytes()
                    waiting.append((found[place], ".".join(Path(place).parent.parts)))
    return HEAD + pack(Bundle(text, found)) if found else text


def opened(data: bytes) -> Bundle:
    """The texts of what was deployed."""
    return unpack(data[len(HEAD) :], Bundle) if data.startswith(HEAD) else Bundle(data)


def _imported(text: bytes, package: str) -> Iterator[str]:
    """The modules that a text imports, by their full names; those of no folder are among them."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # told when it is run
        return
    for one in ast.walk(tree):
        if isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)
        elif isinstance(one, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - one.level + 1] if one.level else []
            base = ".".join(filter(None, [*above, one.module]))
            yield from (f"{base}.{alias.name}" for alias in one.names)


def _files(folder: Path, name: str) -> Iterator[str]:
    """The files of a module and of the packages that it lies in."""
    parts = [part for part in name.split(".") if part]
    if not parts or parts[0] in OTHERS:
        return
    for i in range(1, len(parts) + 1):
        for place in _places(parts[:i]):
            if (folder / place).is_file():
                yield place
                break


def _places(parts: Sequence[str]) -> tuple[str, str]:
    return "/".join([*parts, "__init__.py"]), "/".join(parts) + ".py"


# Loading what was gathered.


def prepare(module: types.ModuleType, bundle: Bundle, path: str) -> set[str]:
    """Make a pipeline file's own module one that finds the modules kept with it, each run anew. The names of
    all files of it."""
    remember(bundle.text, path)
    if not bundle.modules:
        return {path}
    for name in [name for name in sys.modules if name.startswith(f"{module.__name__}.")]:
        del sys.modules[name]
    folder = Path(path).parent
    module.__path__ = []
    _FINDER.kept[module.__name__] = (bundle.modules, folder)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    _hook(module)
    return {path, *(str(folder / place) for place in bundle.modules)}


def _hook(module: types.ModuleType) -> None:
    """Let `import` in a module look among the kept ones first."""
    root = module.__name__.partition(".")[0]
    modules, _ = _FINDER.kept[root]

    def find(
        name: str, globals: Any = None, locals: Any = None, fromlist: Sequence[str] = (), level: int = 0
    ) -> Any:
        if level or _place(modules, name.partition(".")[0]) is None:
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = importlib.import_module(f"{root}.{name}")
        for one in fromlist or ():
            if _place(modules, f"{name}.{one}") is not None:
                importlib.import_module(f"{root}.{name}.{one}")
        return found if fromlist else sys.modules[f"{root}.{name.partition('.')[0]}"]

    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": find}


def _place(modules: Mapping[str, bytes], name: str) -> str | None:
    """Where a module's text is kept; a folder without an `__init__.py` is a package of what lies in it."""
    for place in _places(name.split(".")):
        if place in modules:
            return place
    inside = name.replace(".", "/") + "/"
    return inside if any(place.startswith(inside) for place in modules) else None


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules of the name `penstock_file_X.NAME` among the texts that are kept with X."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[dict[str, bytes], Path]] = {}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """See `importlib.abc.MetaPathFinder`."""
        root, _, inner = name.partition(".")
        if root not in self.kept or not inner:
            return None
        modules, folder = self.kept[root]
        place = _place(modules, inner)
        if place is None:
            return None
        spec = importlib.machinery.ModuleSpec(
            name, _Loader(modules.get(place, b"")), origin=str(folder / place)
        )
        if place.endswith(("/__init__.py", "/")):
            spec.submodule_search_locations = []
        return spec


_FINDER = _Finder()


class _Loader(importlib.abc.Loader):
    """Runs a kept text as a module."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def create_module(self, spec: Any) -> None:
        """See `importlib.abc.Loader`: as usual."""

    def exec_module(self, module: types.ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        assert module.__spec__ is not None and module.__spec__.origin is not None
        path = module.__file__ = module.__spec__.origin
        remember(self.text, path)
        _hook(module)
        exec(compile(self.text, path, "exec"), module.__dict__)


def remember(text: bytes, path: str) -> None:
    """Let tracebacks and the meanings of functions read this text, whatever the file says by now."""
    lines = text.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[path] = (len(text), None, lines, path)
