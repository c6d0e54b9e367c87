"""app: an `MLmodel` directory of MLflow as a model that `fit` might have returned itself.

It is read where `fit` runs, in the training process: what is a pickle in it is unpickled there, once, and what
scores in the server comes from there as every other model. Source: MLflow's model format; nothing of MLflow is needed.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.record.errors import Refused

READ = ("sklearn", "xgboost", "lightgbm", "onnx")
Fit = Callable[[Any], Any]


def reading(fit: Fit) -> Fit:
    """The user's `fit`, where a path that it returns stands for the model in that directory."""

    def read_fit(data: Any) -> Any:
        fitted = fit(data)
        return read(Path(fitted), data.names) if isinstance(fitted, str | os.PathLike) else fitted

    return read_fit


def read(folder: Path, names: Sequence[str]) -> Any:
    """The model in an `MLmodel` directory, for features of these names; raises Refused where it is none of READ, or
    made for other columns."""
    about = _about(folder)
    flavors = about.get("flavors") or {}
    name = next((one for one in READ if one in flavors), None)
    if name is None:
        raise _refused(f"It has no flavour of {', '.join(READ)}.", "Convert it to ONNX, or load it in `fit`.")
    flavor = flavors[name]
    if flavor.get("code"):
        raise _refused(
            "It brings code of its own.", "Put that code where `fit` can import it, and load it there."
        )
    _check_columns(about.get("signature") or {}, names)
    file = _within(folder, str(flavor.get("data") or flavor.get("pickled_model") or ""))
    if name == "onnx":
        return file.read_bytes()
    if file.suffix == ".skops":
        return _by_number(_unskopsed(file, flavor.get("skops_trusted_types") or []))
    kind = str(flavor.get("model_class") or "").rpartition(".")[2]
    if name == "xgboost" and kind.isidentifier():
        found = getattr(_imported("xgboost"), kind)()
        found.load_model(file)
        return found
    if name == "lightgbm" and kind == "Booster":
        return _imported("lightgbm").Booster(model_file=file)
    if file.suffix != ".pkl":
        raise _refused(f"Its {name} model is of a kind that is not read.", "Load it in `fit`.")
    return _by_number(pickle.loads(file.read_bytes()))


def _by_number(found: Any) -> Any:
    """A model that was fitted to a data frame, as if to a matrix: a ColumnTransformer takes its columns by number."""
    at = getattr(found, "_transformer_to_input_indices", None)
    if at is not None:
        for name in ("transformers", "transformers_"):
            setattr(found, name, [(one, step, at[one]) for one, step, _ in getattr(found, name)])
        found._columns = [at[one] for one, _, _ in found.transformers]
    for _, step, *_ in getattr(found, "steps", getattr(found, "transformers_", ())):
        _by_number(step)
    if "feature_names_in_" in getattr(found, "__dict__", ()):
        del found.feature_names_in_
    return found


def _about(folder: Path) -> Mapping[str, Any]:
    file = folder / "MLmodel"
    if not file.is_file():
        raise Refused(
            "fit returned a path, and there is no MLmodel file in it.", code="model_mlflow",
            hint="Return the model itself, or the directory that MLflow saved it to.",
        )  # fmt: skip
    yaml = _imported("yaml", "mlflow")
    try:
        found = yaml.safe_load(file.read_text())
    except yaml.YAMLError:
        raise _refused("Its MLmodel file is no YAML.", "Save it again.") from None
    if not isinstance(found, dict):
        raise _refused("Its MLmodel file says nothing.", "Save it again.")
    return found


def _check_columns(signature: Mapping[str, Any], names: Sequence[str]) -> None:
    """Columns that a signature names are the features, in this order: a model is asked by position."""
    asked = [one.get("name") for one in json.loads(signature.get("inputs") or "[]")]
    if any(asked) and asked != list(names):
        raise _refused(
            f"Its signature names {len(asked)} columns, and they are not the {len(names)} features in their order.",
            "Name and order the features as the signature does.",
        )


def _within(folder: Path, name: str) -> Path:
    file = (folder / name).resolve()
    if not name or not file.is_relative_to(folder.resolve()) or not file.is_file():
        raise _refused("The file of its model is not there.", "Save it again, whole.")
    return file


def _unskopsed(file: Path, trusted: Sequence[str]) -> Any:
    skops = _imported("skops.io", "mlflow")
    try:
        return skops.load(file, trusted=list(trusted))
    except skops.exceptions.UntrustedTypesFoundException:
        raise _refused("It holds types that it does not say may be trusted.", "Save it with them.") from None


def _imported(module: str, extra: str = "") -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _refused(
            f"It needs {module}, which is not installed.", f"Install the extra `{extra or module}`."
        ) from None


def _refused(what: str, hint: str) -> Refused:
    return Refused(f"The MLmodel directory cannot be taken. {what}", code="model_mlflow", hint=hint)
