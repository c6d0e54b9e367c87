"""model: what scores outside of Python: a program that we start, or a model behind an address. Data, and no code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from penstock.record.errors import Refused


class Program(msgspec.Struct, frozen=True, tag="program"):
    """A model in any language, as `fit` returns it: a program that reads rows and writes scores, by the line
    protocol (`docs/line-protocol.md`). It is kept with the version, byte for byte, and started from there.

    `file`: what is run: its bytes, or the path that they are read from now. `model`: what was learned, in the
    program's own form; it is given a file with these bytes. `columns`: by which names it knows the features, in
    their order; without them, by their own.
    """

    file: Any
    model: bytes = b""
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.file, bytes):
            try:
                msgspec.structs.force_setattr(self, "file", Path(self.file).read_bytes())
            except OSError:
                raise Refused("The file of a Program cannot be read.", code="no_program") from None
        msgspec.structs.force_setattr(self, "columns", tuple(self.columns))


class Endpoint(msgspec.Struct, frozen=True, tag="endpoint"):
    """A model that runs elsewhere, as `fit` returns it: asked over HTTP at `url`, by the name `model` there.

    `protocol`: "v2" (the Open Inference Protocol: Triton, KServe, MLServer, Penstock) or "tensorflow" (TensorFlow
    Serving's REST). Without `columns` a row is one vector: in "v2" the tensor `input` of shape [n, features]. With
    them, each feature goes by its name there: in "v2" as a tensor of shape [n, 1]. `datatype` is that of numbers in
    "v2". `output`: which of several outputs is the score; else the first. `key_file`: the path of a file with a key,
    sent as `Authorization: Bearer`; it is read where the model is asked, and kept nowhere.
    """

    url: str
    model: str
    protocol: Literal["v2", "tensorflow"] = "v2"
    columns: tuple[str, ...] = ()
    input: str = "input"
    output: str = ""
    datatype: Literal["FP32", "FP64"] = "FP64"
    key_file: str = ""

    def __post_init__(self) -> None:
        if self.protocol not in ("v2", "tensorflow") or self.datatype not in ("FP32", "FP64"):
            raise Refused(
                "An Endpoint's protocol is v2 or tensorflow, its datatype FP64 or FP32.", code="endpoint"
            )
        msgspec.structs.force_setattr(self, "columns", tuple(self.columns))


Outside = Program | Endpoint


def named(outside: Outside, names: Sequence[str], kinds: Sequence[str]) -> Outside:
    """The same, bound to the features that it is to be asked with; raises Refused where they do not fit."""
    if outside.columns and len(outside.columns) != len(names):
        raise Refused(
            f"{type(outside).__name__} names {len(outside.columns)} columns of {len(names)} features.",
            code="columns",
            hint="Name one for each feature of the pipeline, in their order.",
        )
    if isinstance(outside, Program):
        return msgspec.structs.replace(outside, columns=outside.columns or tuple(names))
    if "category" in kinds and not outside.columns:
        raise Refused(
            "Texts do not fit into one vector of numbers.", code="columns", hint="Give the Endpoint columns=."
        )
    return outside
