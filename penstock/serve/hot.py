"""serve: the way of a request in a hurry: read at once, answered together with all that came in the same moment.

Where the model takes its time, they are put on the log together, and each is answered when its prediction is there.
The Open Inference Protocol's `infer` is read here, its calls by gRPC in `grpc/`, and every other protocol's JSON as its
own file shapes it. What does not fit this way takes the other one, which says why.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from penstock.record.codec import repeats_no_key
from penstock.record.decisions import Prediction
from penstock.record.errors import PenstockError, Unavailable
from penstock.record.record import Draft, output_id
from penstock.serve.asking import AT_ONCE, Answered, Shape, drafts_of, json_in
from penstock.serve.carried import CARRIED
from penstock.serve.desk import Desk, ModelFace, too_late
from penstock.serve.front.call import INTERNAL, Answer, Call, failed, status_of
from penstock.serve.infer import MOST_ROWS

Soon = Callable[[Callable[[], None]], object]
Slow = Callable[[Call], None]
Told = Callable[[Sequence[Answered]], Answer]
Read = Callable[[bytes], tuple[Sequence[Draft], Told] | None]
"""The records that a body asks for, and what is answered once something is said of each; None, or raises, where it
is none of the plain ones."""
HURRIED_BYTES = 64 << 10
"""A longer body brings many rows: it is left to the other way at a look, and not read twice."""
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


class Waiting(msgspec.Struct, frozen=True):
    """A call whose requests are ready: how its answer is made of what is said of them, what else is to be done where
    they were asked before, and for how long it waits. It holds what may come to hold it, so the collector sees it."""

    call: Call
    drafts: Sequence[Draft]
    told: Told
    slow: Slow
    timeout_s: float


Refuse = Callable[[Sequence[Waiting], BaseException], None]


class Later:
    """A call whose requests are on the log: answered when the last of their predictions is there, or told that it was
    not in time."""

    __slots__ = ("_futures", "_left", "_one", "_refuse", "_timer")

    def __init__(self, one: Waiting, futures: Sequence[asyncio.Future[Prediction]], refuse: Refuse) -> None:
        self._one, self._futures, self._left, self._refuse = one, futures, len(futures), refuse
        self._timer = asyncio.get_running_loop().call_later(one.timeout_s, self._end)
        one.call.left = self._end
        for future in futures:
            future.add_done_callback(self._heard)

    def _end(self) -> None:
        for future in self._futures:
            future.cancel()

    def _heard(self, future: asyncio.Future[Prediction]) -> None:
        self._left -= 1
        if self._left:
            return
        self._timer.cancel()
        self._one.call.left = None  # it would keep this for ever, and this keeps it
        if self._one.call.gone:
            return
        errors = [too_late() if one.cancelled() else one.exception() for one in self._futures]
        error = next(filter(None, errors), None)
        if error is None:
            self._one.call.reply(self._one.told([one.result() for one in self._futures]))
        else:
            self._refuse([self._one], error)


class Lane:
    """The requests of one model: those that came in the same turn of the event loop, or while they were gathered, are
    answered in one."""

    def __init__(
        self, desk: Desk, face: ModelFace, soon: Soon, slow: Slow, note: Callable[[BaseException], None]
    ) -> None:
        self.desk, self.face, self.soon, self.slow, self.note = desk, face, soon, slow, note
        self.waiting: list[Waiting] = []
        self.later: list[Waiting] = []
        self.putting: asyncio.Task[None] | None = None
        self.stage = f"predict.{face.name}"
        self.own = frozenset(face.request.columns)
        self.parameters = {"durability": desk.durability}

    def take(self, read: Read, timeout_s: float, call: Call) -> None:
        """Take a call."""
        try:
            found = read(call.body)
        except Exception:
            found = None  # the other way finds it again, and has the words
        if found is None:
            return self.slow(call)
        return self.put(Waiting(call, *found, self.slow, timeout_s))

    def infer(self, body: bytes) -> tuple[Sequence[Draft], Told] | None:
        """Read the Open Inference Protocol."""
        asked = _asked.decode(body)
        if not repeats_no_key(body, 1 + bool(asked.id) + 4 * len(asked.inputs)):
            return None
        drafts = self.drafts(asked.inputs)
        return (drafts, partial(self.told, asked.id)) if drafts else None

    def shaped(self, shape: Shape, body: bytes) -> tuple[Sequence[Draft], Told] | None:
        """Read another protocol."""
        if len(body) > HURRIED_BYTES:
            return None
        found = shape(json_in(body), self.desk, self.face.name)
        if len(found.rows) > AT_ONCE:
            return None
        return drafts_of(self.desk, self.face.name, found.rows, found.features), found.told

    def put(self, one: Waiting) -> None:
        """Let a call wait for those that come with it."""
        if not self.waiting:
            self.soon(self.flush)
        self.waiting.append(one)

    def drafts(self, inputs: Sequence[Tensor]) -> list[Draft] | None:
        """The records of a request; None where it is none of the plain ones."""
        if len(inputs) == 1 and len(inputs[0].shape) == 2:
            (one,) = inputs
            n, width = one.shape
            kinds = _KINDS.get(one.datatype, ())
            if width != len(self.face.features) or not 0 < n <= MOST_ROWS or one.name in self.own:
                return None
            found = set(map(type, one.data))
            if len(one.data) != n * width or found not in kinds or one.datatype not in ("FP64", "FP32"):
                return None
            numbers = one.data if found == {float} else list(map(float, one.data))
            return self.desk.vectors(
                self.face.name, [numbers[i : i + width] for i in range(0, n * width, width)]
            )
        columns: dict[str, Any] = {}
        if not inputs:
            return None
        for one in inputs:
            if one.shape != [1] or len(one.data) != 1 or one.name not in self.own:
                return None
            (value,) = one.data
            if {type(value)} not in _KINDS.get(one.datatype, ()):
                return None
            columns[one.name] = float(value) if one.datatype in ("FP64", "FP32") else value
        return self.desk.requests(self.face.name, [columns]) if len(columns) == len(inputs) else None

    def flush(self) -> None:
        """Answer all who wait."""
        waiting, self.waiting = [one for one in self.waiting if self.is_let_in(one)], []
        drafts = [draft for one in waiting for draft in one.drafts]
        if not drafts:
            return None
        try:
            found = self.desk.at_once(self.face.name, drafts)
        except Exception as error:
            return self.refuse(waiting, error)
        if found is None:
            self.later += waiting
            self.putting = self.putting or asyncio.get_running_loop().create_task(self.put_later())
            return None
        for one in waiting:
            said = [found[draft.id] for draft in one.drafts if draft.id in found]
            if len(said) < len(one.drafts):
                self.desk.allow(self.face.name, -len(one.drafts))  # it is counted there
                one.slow(one.call)
            else:
                one.call.reply(one.told(said))

    def is_let_in(self, one: Waiting) -> bool:
        """Whether a call's rows may be asked now; it is told where not."""
        try:
            if not one.call.gone:
                self.desk.allow(self.face.name, len(one.drafts))
        except Unavailable as error:
            self.refuse([one], error)
            return False
        return not one.call.gone

    async def put_later(self) -> None:
        """Put requests on the log, in one append all that came while the one before was under way."""
        while self.later:
            waiting, self.later = [one for one in self.later if not one.call.gone], []
            try:
                futures = iter(
                    await self.desk.post(self.face.name, [d for one in waiting for d in one.drafts])
                )
            except Exception as error:
                self.refuse(waiting, error)
                continue
            for one in waiting:
                Later(one, list(itertools.islice(futures, len(one.drafts))), self.refuse)
        self.putting = None

    def refuse(self, waiting: Sequence[Waiting], error: BaseException) -> None:
        """Tell all who wait that there is no answer, and why: of our insides they learn nothing."""
        if not isinstance(error, PenstockError) or (
            error.status >= 500 and not isinstance(error, Unavailable)
        ):
            self.note(error)
        if not isinstance(error, PenstockError):
            error = INTERNAL
        for one in waiting:
            self.desk.count("answers_refused", {"status": str(status_of(error)), "code": error.code}, 1)
            one.call.refuse(error)

    def told(self, id: str, said: Sequence[Answered]) -> Answer:
        """The answer to a call in JSON."""
        if len(said) == 1 and said[0].error:
            return failed(said[0].error)
        return Answer(200, _encode(self.body(id, said)))

    def body(self, id: str, said: Sequence[Answered]) -> Body:
        """The body of an answer."""
        shape = (len(said),)
        columns = (
            Column("score", "FP64", shape, []),
            Column("positive", "BOOL", shape, []),
            Column("version", "INT64", shape, []),
            Column("prediction_id", "BYTES", shape, []),
            Column("request_id", "BYTES", shape, []),
            Column("error", "BYTES", shape, []),
        )
        scores, positives, versions, predictions, requests, errors = [one.data for one in columns]
        for one in said:
            scores.append(one.score)
            positives.append(one.positive)
            versions.append(one.version)
            predictions.append(output_id(self.stage, one.source, one.position, 0))
            requests.append(one.request)
            errors.append(one.error)
        shown = columns if any(errors) else columns[:-1]
        return Body(self.face.name, str(max(versions)), shown, id or msgspec.UNSET, self.parameters)


def carrying(read: Read, carries: Mapping[str, str], body: bytes) -> tuple[Sequence[Draft], Told] | None:
    """Read a body for records that carry what its call does; the answer is traced as the call is."""
    token = CARRIED.set(carries)
    try:
        found = read(body)
    finally:
        CARRIED.reset(token)
    if found is None or "traceparent" not in carries:
        return found
    trace = (b"traceparent", carries["traceparent"].encode())

    def told(said: Sequence[Answered]) -> Answer:
        answer = found[1](said)
        return msgspec.structs.replace(answer, headers=[*answer.headers, trace])

    return found[0], told


def lanes(
    desk: Desk, loop: asyncio.AbstractEventLoop, slow: Slow, note: Callable[[BaseException], None]
) -> Mapping[str, Lane]:
    """A lane for each model, flushed at the end of the turn, or once its requests were gathered for so long."""

    def soon(face: ModelFace) -> Soon:
        return partial(loop.call_later, face.gather_s) if face.gather_s else loop.call_soon

    return {name: Lane(desk, face, soon(face), slow, note) for name, face in desk.faces.items()}
