"""app: a model that runs elsewhere, asked over HTTP: the client's deadline, repeats and connections.

Source: the Open Inference Protocol, version 2, REST; TensorFlow Serving's REST.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock.app.scoring.order import Fell, Limits, Row, Scores
from penstock.client.calls import Call, Failed, Inference, Tensor, infer, instances, metadata, status
from penstock.client.sync import Client
from penstock.client.wire import address
from penstock.model.outside import Endpoint
from penstock.model.pack import Model, one_a_row
from penstock.record.errors import PenstockError, Refused, Unavailable

ROWS = (400, 413, 415, 422)
"""Statuses that speak of the rows."""


class Remote:
    """A server's model. It keeps nothing of ours: a call that may have arrived is sent again."""

    def __init__(self, model: Model, endpoint: Endpoint, clock: Callable[[], float] = time.monotonic) -> None:
        address(endpoint.url)  # what is no address is told now
        self.model, self.endpoint, self.clock = model, endpoint, clock
        self._client: Client | None = None

    def start(self, limits: Limits) -> None:
        """See that the server knows the model; raises Fell."""
        name = self.endpoint.model
        known: Call[Any] = metadata(name) if self.endpoint.protocol == "v2" else status(name)
        try:
            self._do(known, limits.batch_s)
        except PenstockError as error:
            raise _fell(error) from None

    def ask(self, rows: Sequence[Row], limits: Limits) -> Scores:
        """The answer to a batch; of one that the server refuses, row by row. Raises Fell where it is away, late, or
        fails."""
        try:
            return Scores(self._asked(rows, limits.batch_s))
        except Refused as error:
            if error.status not in ROWS:
                raise _fell(error) from None
        except PenstockError as error:
            raise _fell(error) from None
        until_s = self.clock() + limits.tries_s
        return Scores([self._alone(row, until_s) for row in rows] if len(rows) > 1 else [None], alone=True)

    def memory(self) -> int:
        """None of ours."""
        return 0

    def waiting(self) -> int:
        """A server takes many calls at once: nobody waits for another's row."""
        return 0

    def trim(self, limits: Limits) -> bool:
        """Nothing is too large."""
        return False

    def close(self) -> None:
        """End the connections."""
        if self._client is not None:
            self._client.close()

    def _alone(self, row: Row, until_s: float) -> float | None:
        left_s = until_s - self.clock()
        try:
            return self._asked([row], left_s)[0] if left_s > 0 else None
        except PenstockError:  # this row is the culprit, or its time is over
            return None

    def _asked(self, rows: Sequence[Row], within_s: float) -> list[float | None]:
        n, endpoint = len(rows), self.endpoint
        if endpoint.protocol == "tensorflow":
            found = self._do(instances(endpoint.model, self._instances(rows)), within_s)
            return _scores([_of(one, endpoint.output) for one in found], [n, -1], n)
        wanted = [endpoint.output] if endpoint.output else []
        said = self._do(infer(endpoint.model, self._tensors(rows), wanted, "", safe=True), within_s)
        one = _output(said, endpoint.output)
        return _scores(one.data, one.shape, n)

    def _do(self, call: Call[Any], within_s: float) -> Any:
        if self._client is None:
            file = self.endpoint.key_file
            try:
                key = Path(file).read_text(encoding="utf-8").strip() if file else ""
            except OSError:
                raise Unavailable("The key file of an Endpoint cannot be read.", code="no_key") from None
            self._client = Client(self.endpoint.url, key)
        return self._client.do(call, within_s)

    def _instances(self, rows: Sequence[Row]) -> list[Any]:
        if not self.endpoint.columns:
            return [[_number(one) for one in row] for row in rows]
        return [dict(zip(self.endpoint.columns, map(_plain, row), strict=True)) for row in rows]

    def _tensors(self, rows: Sequence[Row]) -> list[Tensor]:
        columns, datatype = self.endpoint.columns, self.endpoint.datatype
        if not columns:
            flat = [_number(one) for row in rows for one in row]
            return [Tensor(self.endpoint.input, datatype, [len(rows), len(rows[0])], flat)]
        kinds = self.model.kinds
        return [
            Tensor(name, "BYTES", [len(rows), 1], [_plain(row[i]) for row in rows])
            if kinds[i] == "category"
            else Tensor(name, datatype, [len(rows), 1], [_number(row[i]) for row in rows])
            for i, name in enumerate(columns)
        ]


def _fell(error: PenstockError) -> Fell:
    if error.code == "deadline":
        return Fell("model_late", whole=True)
    return Fell("model_failed") if isinstance(error, Failed) else Fell("model_away", whole=True)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, bool) else value


def _output(said: Inference, name: str) -> Tensor:
    found = next((one for one in said.outputs if name in ("", one.name)), None)
    if found is None:
        raise Failed("The answer lacks the output that the Endpoint names.", code="reply")
    return found


def _of(prediction: Any, name: str) -> Any:
    """What TensorFlow Serving says of a row: numbers, or an object of them where there are several outputs."""
    if isinstance(prediction, dict):
        return prediction.get(name) if name else next(iter(prediction.values()), None)
    return prediction


def _scores(data: list[Any], shape: list[int], n: int) -> list[float | None]:
    try:
        found = np.asarray(data, dtype=np.float64)
        return one_a_row(found.reshape(n) if found.size == n else found.reshape(shape), n)
    except (TypeError, ValueError, Refused):
        raise Failed("The answer is not one score a row.", code="reply") from None
