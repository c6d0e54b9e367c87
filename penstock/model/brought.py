"""model: models of XGBoost and LightGBM, and ONNX models: kept as the bytes that their own library writes.

Such a model is these bytes and no more from the moment that `fit` returns it: what is tried, stored, opened again
and scored is the same, and nothing of it is pickled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from penstock.model.graph import checked, opened
from penstock.record.errors import Broken

Format = Literal["xgboost", "lightgbm", "onnx"]
Scored = Callable[[Any], Any]


class Brought:
    """A model as its library's own bytes. `format`: which library that is."""

    def __init__(self, format: Format, data: bytes) -> None:
        self.format, self.data = format, data
        self._scored: Scored | None = None

    def predict(self, x: Any) -> Any:
        """What the library says of rows (n, columns): probabilities where it was fitted to tell classes apart."""
        if self._scored is None:
            self._scored = FORMATS[self.format].scored(self.data)
        return self._scored(x)


def brought(fitted: Any, width: int) -> Brought | None:
    """What `fit` returned, of `width` columns, as its library's bytes; None where it is of no such library, or more
    than they would tell. Raises Refused for an ONNX model that cannot be taken."""
    for name, one in FORMATS.items():
        data = one.saved(fitted, width)
        if data is not None:
            return Brought(name, data)
    return None


def booster(fitted: Any) -> Any:
    """The Booster of a model of XGBoost, as far as it is used; None where its answers need more than that."""
    if _library(fitted) != "xgboost":
        return None
    if type(fitted).__name__ == "Booster":
        return fitted
    if not hasattr(fitted, "get_booster") or not math.isnan(fitted.missing):
        return None
    found = fitted.get_booster()
    best = found.attr("best_iteration")
    return found if best is None else found[: int(best) + 1]


def xgboost_opened(data: bytes) -> Any:
    """A Booster of XGBoost, of its bytes."""
    found = _imported("xgboost").Booster(model_file=bytearray(data))
    found.set_param({"nthread": 1})
    return found


def lightgbm_opened(data: bytes) -> Any:
    """A Booster of LightGBM, of its text."""
    return _imported("lightgbm").Booster(model_str=data.decode())


def _library(fitted: Any) -> str:
    """The library that a class is of: nothing is imported to find out."""
    return type(fitted).__module__.partition(".")[0]


def _imported(library: str) -> Any:
    import importlib

    try:
        return importlib.import_module(library)
    except ImportError:
        raise Broken(
            f"This model needs {library}, which is not installed.", code="model_library",
            hint=f"Install the extra `{library}`.",
        ) from None  # fmt: skip


def _xgboost_saved(fitted: Any, width: int) -> bytes | None:
    found = booster(fitted)
    return None if found is None else bytes(found.save_raw("ubj"))


def _xgboost_scored(data: bytes) -> Scored:
    matrix, found = _imported("xgboost").DMatrix, xgboost_opened(data)
    known = {"feature_names": found.feature_names, "feature_types": found.feature_types, "nthread": 1}
    return lambda x: found.predict(matrix(x, **known, enable_categorical=True))


def _lightgbm_saved(fitted: Any, width: int) -> bytes | None:
    if _library(fitted) != "lightgbm":
        return None
    found = getattr(fitted, "booster_", fitted)
    return str(found.model_to_string()).encode() if type(found).__name__ == "Booster" else None


def _lightgbm_scored(data: bytes) -> Scored:
    found = lightgbm_opened(data)
    return lambda x: found.predict(x, num_threads=1)


def _onnx_saved(fitted: Any, width: int) -> bytes | None:
    if _library(fitted) == "onnx" and hasattr(fitted, "SerializeToString"):
        fitted = fitted.SerializeToString()
    return checked(fitted, width) if isinstance(fitted, bytes) else None


class _Library(NamedTuple):
    """How a library's model becomes bytes (None: it is not of that library), and how bytes score."""

    saved: Callable[[Any, int], bytes | None]
    scored: Callable[[bytes], Scored]


FORMATS: dict[Format, _Library] = {
    "xgboost": _Library(_xgboost_saved, _xgboost_scored),
    "lightgbm": _Library(_lightgbm_saved, _lightgbm_scored),
    "onnx": _Library(_onnx_saved, opened),
}
