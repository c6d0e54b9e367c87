"""serve: gRPC's calls ask for a key where HTTP's do, tell errors as statuses, and nothing of our insides."""

from __future__ import annotations

import asyncio
import struct
import warnings
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pb = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient[grpc] is not installed")
    import grpc.aio
    from tritonclient.grpc import service_pb2_grpc

from tests.unit.serve.test_http import DESK, KEYS, SECRET, noted
from tests.unit.serve.wire import opened

T = TypeVar("T")


def asked(talk: Callable[[Any], Awaitable[T]], channel_options: Any = (), **options: Any) -> T:
    """What the stubs of the standard protocol find behind the door."""

    async def run() -> T:
        async with (
            opened(DESK, noted.append, remote=True, **options) as (_, port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options) as channel,
        ):
            return await talk(service_pb2_grpc.GRPCInferenceServiceStub(channel))

    return asyncio.run(run())


def call(
    method: str,
    fields: dict[str, Any],
    *,
    keys: Any = None,
    key: str = "",
    timeout: float = 10.0,
    **more: Any,
) -> Any:
    """The answer of a call, or its status."""

    async def talk(stub: Any) -> Any:
        metadata = [("authorization", f"Bearer {key}")] if key else []
        request = getattr(pb, f"{method}Request")(**fields)
        try:
            return await getattr(stub, method)(request, metadata=metadata, timeout=timeout, **more)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()

    return asked(talk, keys=keys)


def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> dict[str, Any]:
    """An input."""
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}


ROW = [
    tensor("who", "BYTES", [1], bytes_contents=[b"a"]), tensor("x", "FP64", [1], fp64_contents=[1.0]),
    tensor("n", "INT8", [1], int_contents=[2]), tensor("flag", "BOOL", [1], bool_contents=[True]),
]  # fmt: skip


def test_typed_and_raw_contents() -> None:
    """A request of raw contents is answered in such; both say the same."""
    typed = call("ModelInfer", {"model_name": "m", "id": "mine", "inputs": ROW})
    assert (typed.id, typed.model_version) == ("mine", "3")
    assert {one.name: one.datatype for one in typed.outputs}["score"] == "FP64"
    assert list(typed.outputs[0].contents.fp64_contents) == [0.25] and not typed.raw_output_contents
    raw = call(
        "ModelInfer",
        {
            "model_name": "m",
            "inputs": [{"name": "all", "datatype": "FP32", "shape": [1, 2]}],
            "raw_input_contents": [struct.pack("<2f", 1, 2)],
            "outputs": [{"name": "score"}],
        },
    )
    assert [one.name for one in raw.outputs] == ["score"] and raw.raw_output_contents == [
        struct.pack("<d", 0.25)
    ]


def test_every_call_but_health_asks_for_a_key() -> None:
    """As metadata; a wrong one is none."""
    for key in ("", "wrong"):
        assert (
            call("ModelInfer", {"model_name": "m", "inputs": ROW}, keys=KEYS, key=key)[0] == "UNAUTHENTICATED"
        )
        assert call("ModelMetadata", {"name": "m"}, keys=KEYS, key=key)[0] == "UNAUTHENTICATED"
    assert call("ServerLive", {}, keys=KEYS).live and call("ServerReady", {}, keys=KEYS).ready
    assert call("ModelInfer", {"model_name": "m", "inputs": ROW}, keys=KEYS, key=SECRET).model_name == "m"


def who(name: str) -> list[dict[str, Any]]:
    """A row of somebody."""
    return [tensor("who", "BYTES", [1], bytes_contents=[name.encode()]), *ROW[1:]]


STATUSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "another model": ({"model_name": "mm", "inputs": ROW}, "NOT_FOUND", "did you mean"),
    "another version": ({"model_name": "m", "model_version": "9", "inputs": ROW}, "NOT_FOUND", "no_version"),
    "no inputs": ({"model_name": "m"}, "INVALID_ARGUMENT", "malformed"),
    "too few values": (
        {"model_name": "m", "inputs": [tensor("x", "FP64", [2], fp64_contents=[1.0])]}, "INVALID_ARGUMENT", "shape",
    ),
    "out of range": (
        {"model_name": "m", "inputs": [tensor("n", "INT8", [1], int_contents=[300])]}, "INVALID_ARGUMENT", "n, row 0",
    ),
    "no text": (
        {"model_name": "m", "inputs": [tensor("who", "BYTES", [1], bytes_contents=[b"\xff"])]},
        "INVALID_ARGUMENT", "text",
    ),
    "another output": (
        {"model_name": "m", "inputs": ROW, "outputs": [{"name": "scores"}]}, "INVALID_ARGUMENT", "did you mean",
    ),
    "late": ({"model_name": "m", "inputs": who("late")}, "DEADLINE_EXCEEDED", "deadline"),
    "our own": ({"model_name": "m", "inputs": who("boom")}, "INTERNAL", "internal error"),
}  # fmt: skip


@pytest.mark.parametrize("case", STATUSES)
def test_errors_are_statuses(case: str) -> None:
    """With what to do about it; of ours nothing is told."""
    noted.clear()
    fields, status, word = STATUSES[case]
    code, details = call("ModelInfer", fields)
    assert code == status and word in details and "secret" not in details
    assert [str(one) for one in noted] == (["secret insides"] if case == "our own" else [])
