"""serve: the way of a request in a hurry: read at once, answered together with all that came in the same moment.

Only the Open Inference Protocol's `infer` in JSON. What does not fit this way takes the other one, which says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.record.codec import repeats_no_key
from penstock.record.errors import PenstockError, Unavailable
from penstock.record.record import Draft, output_id
from penstock.serve.desk import Desk, ModelFace, Spoken
from penstock.serve.front.call import Answer, Call, refused
from penstock.serve.infer import MOST_ROWS

Soon = Callable[[Callable[[], None]], object]
Slow = Callable[[Call], None]
_NUMBERS = ({float}, {int}, {float, int})
_KINDS = {"FP64": _NUMBERS, "FP32": _NUMBERS, "INT64": ({int},), "BOOL": ({bool},), "BYTES": ({str},)}


class Tensor(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """An input as it mostly is."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Asked(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """A body as it mostly is."""

    inputs: list[Tensor]
    id: str = ""


class Column(msgspec.Struct, gc=False):
    """An output."""

    name: str
    datatype: str
    shape: tuple[int]
    data: list[Any]


class Body(msgspec.Struct, gc=False):
    """An answer's body."""

    model_name: str
    model_version: str
    outputs: tuple[Column, ...]
    id: str | msgspec.UnsetType
    parameters: dict[str, str]


_asked = msgspec.json.Decoder(Asked)
_encode = msgspec.json.Encoder().encode


class Lane:
    """The requests of one model: those that came in the same turn of the event loop are answered in one."""

    def __init__(
        self, desk: Desk, face: ModelFace, soon: Soon, slow: Slow, note: Callable[[BaseException], None]
    ) -> None:
        self.desk, self.face, self.soon, self.slow, self.note = desk, face, soon, slow, note
        self.waiting: list[tuple[Call, str, list[Draft]]] = []
        self.stage = f"predict.{face.name}"
        self.own = frozenset(face.request.columns)
        self.parameters = {"durability": desk.durability}

    def __call__(self, call: Call) -> None:
        """Take a call."""
        drafts: list[Draft] | None = None
        try:
            asked = _asked.decode(call.body)
            if repeats_no_key(call.body, 1 + bool(asked.id) + 4 * len(asked.inputs)):
                drafts = self.drafts(asked)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, PenstockError):
            drafts = None  # the other way finds it again, and has the words
        if not drafts:
            return self.slow(call)
        if not self.waiting:
            self.soon(self.flush)
        self.waiting.append((call, asked.id, drafts))
        return None

    def drafts(self, asked: Asked) -> list[Draft] | None:
        """The records of a request; None where it is none of the plain ones."""
        if len(asked.inputs) == 1 and len(asked.inputs[0].shape) == 2:
            (one,) = asked.inputs
            n, width = one.shape
            kinds = _KINDS.get(one.datatype, ())
            if width != len(self.face.features) or not 0 < n <= MOST_ROWS or one.name in self.own:
                return None
            if (
                len(one.data) != n * width
                or set(map(type, one.data)) not in kinds
                or one.datatype not in ("FP64", "FP32")
            ):
                return None
            numbers = list(map(float, one.data))
            return self.desk.vectors(
                self.face.name, [numbers[i : i + width] for i in range(0, n * width, width)]
            )
        columns: dict[str, Any] = {}
        for one in asked.inputs:
            if one.shape != [1] or len(one.data) != 1 or one.name not in self.own:
                return None
            (value,) = one.data
            if {type(value)} not in _KINDS.get(one.datatype, ()):
                return None
            columns[one.name] = float(value) if one.datatype in ("FP64", "FP32") else value
        return self.desk.requests(self.face.name, [columns]) if len(columns) == len(asked.inputs) else None

    def flush(self) -> None:
        """Answer all who wait."""
        waiting, self.waiting = [one for one in self.waiting if self.is_let_in(one[0], len(one[2]))], []
        drafts = [draft for _, _, drafts in waiting for draft in drafts]
        if not drafts:
            return
        try:
            found = self.desk.at_once(self.face.name, drafts)
        except PenstockError as error:
            if error.status >= 500 and not isinstance(error, Unavailable):
                self.note(error)
            for call, _, _ in waiting:
                self.refuse(call, error)
            return
        found = found or {}
        for call, id, mine in waiting:
            said = [found[draft.id] for draft in mine if draft.id in found]
            if len(said) < len(mine):
                self.desk.allow(self.face.name, -len(mine))  # it is counted there
                self.slow(call)
            elif len(said) == 1 and said[0].error:
                call.reply(failed(said[0]))
            else:
                call.reply(Answer(200, _encode(self.body(id, said))))

    def is_let_in(self, call: Call, n: int) -> bool:
        """Whether a call's rows may be asked now; it is told where not."""
        try:
            if not call.gone:
                self.desk.allow(self.face.name, n)
        except Unavailable as error:
            self.refuse(call, error)
            return False
        return not call.gone

    def refuse(self, call: Call, error: PenstockError) -> None:
        """Say no."""
        answer = refused(error)
        self.desk.count("answers_refused", {"status": str(answer.status), "code": error.code}, 1)
        call.reply(answer)

    def body(self, id: str, said: Sequence[Spoken]) -> Body:
        """The body of an answer."""
        shape = (len(said),)
        columns = [
            Column("score", "FP64", shape, [one.score for one in said]),
            Column("positive", "BOOL", shape, [one.positive for one in said]),
            Column("version", "INT64", shape, [one.version for one in said]),
            Column(
                "prediction_id",
                "BYTES",
                shape,
                [output_id(self.stage, one.source, one.position, 0) for one in said],
            ),
            Column("request_id", "BYTES", shape, [one.request for one in said]),
        ]
        failed = [one.error for one in said]
        if any(failed):
            columns.append(Column("error", "BYTES", shape, failed))
        version = str(max(one.version for one in said))
        return Body(self.face.name, version, tuple(columns), id or msgspec.UNSET, self.parameters)


def failed(said: Spoken) -> Answer:
    """The answer to a request that no score came of."""
    text = {"error": "The model could not answer this request.", "code": said.error}
    return Answer(500, _encode(text))


def lanes(desk: Desk, soon: Soon, slow: Slow, note: Callable[[BaseException], None]) -> Mapping[bytes, Lane]:
    """The hot routes, by path."""
    return {
        f"/v2/models/{name}/infer".encode(): Lane(desk, face, soon, slow, note)
        for name, face in desk.faces.items()
    }
