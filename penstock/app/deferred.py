"""app: a pipeline file loaded without the libraries that only its `fit` needs.

While a file is read, a large library is stood in for by promises: the library is loaded when one of them is first
used, as in `class Mine(BaseEstimator)`, or never, as in a process that only serves a model which needs it no more.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

LARGE = frozenset((
    "catboost", "h2o", "joblib", "keras", "lightgbm", "matplotlib", "pandas", "polars", "river", "scipy", "skl2onnx",
    "sklearn", "statsmodels", "tensorflow", "torch", "transformers", "xgboost",
))  # fmt: skip


class Promise:
    """Something of a library that was not loaded."""

    def __init__(self, module: str, name: str) -> None:
        self.__dict__.update(module=module, name=name, real=None)

    def __getattr__(self, name: str) -> Any:
        return getattr(_kept(self), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What is promised, called."""
        return _kept(self)(*args, **kwargs)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_kept(self),)

    def __instancecheck__(self, one: Any) -> bool:
        return isinstance(one, _kept(self))

    def __subclasscheck__(self, one: type) -> bool:
        return issubclass(one, _kept(self))


def _kept(promise: Promise) -> Any:
    """What was promised."""
    held = promise.__dict__
    if held["real"] is None:
        _forget()
        module = importlib.import_module(held["module"])
        try:
            held["real"] = getattr(module, held["name"])
        except AttributeError:
            held["real"] = importlib.import_module(f"{held['module']}.{held['name']}")
    return held["real"]


class _Stand(ModuleType):
    """A library, or a module of one, that was not loaded."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Promise(self.__name__, name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        root = name.partition(".")[0]
        known = sys.modules.get(root)
        if root not in LARGE or (known is not None and type(known) is not _Stand):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Stand(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


_finder = _Finder()


def _forget() -> None:
    """From here on libraries are loaded as ever."""
    with contextlib.suppress(ValueError):
        sys.meta_path.remove(_finder)
    for name in [name for name, one in sys.modules.items() if type(one) is _Stand]:
        del sys.modules[name]


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it, large libraries that are not loaded yet are only promised."""
    sys.meta_path.insert(0, _finder)
    try:
        yield
    finally:
        _forget()
