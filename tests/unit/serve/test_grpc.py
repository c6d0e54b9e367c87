"""serve: gRPC's calls ask for a key where HTTP's do, tell errors as statuses, and nothing of our insides."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")

from penstock.serve.grpc.messages import PACKAGE, SERVICE, kind  # noqa: E402
from penstock.serve.grpc.service import handler  # noqa: E402
from tests.unit.serve.test_http import DESK, KEYS, SECRET, noted  # noqa: E402


def call(
    method: str, fields: dict[str, Any], *, keys: Any = None, key: str = "", timeout: float = 10.0
) -> Any:
    """The answer of a call, or its status."""

    async def run() -> Any:
        import grpc.aio

        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handler(DESK, keys, noted.append),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                ask = channel.unary_unary(
                    f"/{PACKAGE}.{SERVICE}/{method}",
                    request_serializer=kind(f"{method}Request").SerializeToString,
                    response_deserializer=kind(f"{method}Response").FromString,
                )
                metadata = [("authorization", f"Bearer {key}")] if key else []
                return await ask(kind(f"{method}Request")(**fields), metadata=metadata, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()
        finally:
            await server.stop(0)

    return asyncio.run(run())


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
