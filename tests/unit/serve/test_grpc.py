"""serve: gRPC's calls ask for a key where HTTP's do, tell errors as statuses, and nothing of our insides."""

from __future__ import annotations

import asyncio
import math
import struct
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pb = pytest.importorskip("tritonclient.grpc.service_pb2", reason="tritonclient[grpc] is not installed")
    import grpc.aio
    from tritonclient.grpc import service_pb2_grpc

from penstock.record.record import Draft
from penstock.serve.carried import CARRIED
from penstock.serve.front.wire import LIMITS
from penstock.serve.grpc.messages import MOST_FIELDS, read
from penstock.serve.tensors import BadRequest
from tests.unit.serve import test_http as http
from tests.unit.serve.test_http import KEYS, SECRET, noted
from tests.unit.serve.wire import opened

T = TypeVar("T")
asked_rows: list[dict[str, Any]] = []
posted_rows: list[dict[str, Any]] = []
carried_by: list[Mapping[str, str]] = []
given_up: list[str] = []
waits: list[float] = []


async def ask(model: str, rows: Any, timeout_s: float) -> Any:
    """As over HTTP, and somebody is never answered."""
    carried_by.append(CARRIED.get())
    waits.append(timeout_s)
    asked_rows.extend(row for row in rows if isinstance(row, dict))
    if isinstance(rows[0], dict) and rows[0]["who"] == "stuck":
        try:
            await asyncio.sleep(30)
        finally:
            given_up.append("stuck")
    said = await http.ask(model, rows, timeout_s)
    if isinstance(rows[0], dict) and rows[0]["who"] == "failed":
        said[0] = msgspec.structs.replace(said[0], score=None, positive=None, error="model_late")
    return said


def requests(model: str, rows: Any) -> list[Draft]:
    """As over HTTP."""
    carried_by.append(CARRIED.get())
    posted_rows.extend(rows)
    return http.requests(model, rows)


async def post(model: str, drafts: Any) -> list[asyncio.Future[Any]]:
    """As over HTTP, and somebody is never answered."""
    if drafts[0].key != "stuck":
        return await http.posted(model, drafts)
    future = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda one: given_up.append("stuck"))
    return [future]


DESK = msgspec.structs.replace(http.DESK, ask=ask, ask_vectors=ask, requests=requests, post=post)


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


def test_what_is_asked_at_once_is_answered_in_one_turn() -> None:
    """Whichever way a plain call's numbers are written; others say the same by the long way."""
    quick = [tensor("who", "BYTES", [1], bytes_contents=[b"quick"]), *ROW[1:2]]
    whole = [*quick, tensor("n", "INT64", [1], int64_contents=[-2]), ROW[3]]
    for inputs in (quick, whole, [*quick, tensor("n", "INT64", [1, 1], int64_contents=[-2])]):
        found = call("ModelInfer", {"model_name": "m", "inputs": inputs})
        assert found.outputs[0].contents.fp64_contents == [0.25]
        assert found.outputs[1].contents.bool_contents == [False]
        assert found.outputs[2].contents.int64_contents == [3]
        assert [one.contents.bytes_contents for one in found.outputs[3:]] == [[b"predict.m:ask:7:0"], [b"r0"]]
        assert found.parameters["durability"].string_param == "durable"
    asked_rows.clear()
    found = call("ModelInfer", {"model_name": "m", "inputs": quick, "outputs": [{"name": "version"}]})
    assert [one.name for one in found.outputs] == ["version"] and not asked_rows


def test_the_same_columns_hold_other_numbers() -> None:
    """What is remembered of an input is what stands before its number."""
    posted_rows.clear()
    for x in (1.5, -2.0, 1e300):
        call(
            "ModelInfer",
            {"model_name": "m", "inputs": [*ROW[:1], tensor("x", "FP64", [1], fp64_contents=[x])]},
        )
    assert [row["x"] for row in posted_rows] == [1.5, -2.0, 1e300]


@pytest.mark.parametrize("packing", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_messages_may_be_packed(packing: Any) -> None:
    """As clients can be told to; one that unpacks to too much is refused."""
    assert call("ModelInfer", {"model_name": "m", "inputs": ROW}, compression=packing).model_name == "m"
    much = [{"name": "x", "datatype": "FP64", "shape": [1]}]
    found = call(
        "ModelInfer",
        {"model_name": "m", "inputs": much, "raw_input_contents": [bytes(17 << 20)]},
        compression=packing,
    )
    assert found[0] == "RESOURCE_EXHAUSTED" and "too_large" in found[1]


def test_long_messages() -> None:
    """Ten thousand rows in, and as many answers out; beyond 16 MB a call is refused as it begins."""
    rows = 10_000
    big = {
        "model_name": "m",
        "inputs": [{"name": "all", "datatype": "FP64", "shape": [rows, 2]}],
        "raw_input_contents": [bytes(16 * rows)],
    }
    found = call("ModelInfer", big)
    assert found.outputs[0].shape == [rows] and len(found.raw_output_contents[0]) == 8 * rows
    too_big = {**big, "raw_input_contents": [bytes(17 << 20)]}
    assert call("ModelInfer", too_big)[0] == "RESOURCE_EXHAUSTED"


def test_many_calls_over_one_channel() -> None:
    """Each gets its own answer; one that is late does not hold the others up."""

    async def talk(stub: Any) -> list[str]:
        requests = [pb.ModelInferRequest(model_name="m", id=str(i), inputs=ROW) for i in range(300)]
        return [one.id for one in await asyncio.gather(*(stub.ModelInfer(one) for one in requests))]

    assert asked(talk) == [str(i) for i in range(300)]


def test_a_call_that_is_given_up_is_not_served_on() -> None:
    """By its caller or by its deadline."""
    given_up.clear()

    async def talk(stub: Any) -> list[Any]:
        request = pb.ModelInferRequest(model_name="m", inputs=who("stuck"))
        under_way, found = stub.ModelInfer(request), []
        await asyncio.sleep(0.1)
        under_way.cancel()
        try:
            await stub.ModelInfer(request, timeout=0.1)
        except grpc.aio.AioRpcError as error:
            found.append(error.code().name)
        await asyncio.sleep(0.1)
        return found

    assert asked(talk) == ["DEADLINE_EXCEEDED"] and given_up == ["stuck", "stuck"]


def test_a_channel_outlives_its_connection() -> None:
    """One that was idle is told goodbye; the next call goes over another."""
    limits = msgspec.structs.replace(LIMITS, idle_s=0.1, linger_s=0.1)

    async def talk(stub: Any) -> list[str]:
        found = []
        for pause_s in (0.0, 0.15, 0.4, 0.0):
            await asyncio.sleep(pause_s)
            found.append((await stub.ModelInfer(pb.ModelInferRequest(model_name="m", inputs=ROW))).model_name)
        return found

    assert asked(talk, limits=limits) == ["m"] * 4


def test_the_repository_and_the_server() -> None:
    """What there is, that it is loaded, and that it stays so."""
    (found,) = call("RepositoryIndex", {}).models
    assert (found.name, found.version, found.state) == ("m", "3", "READY")
    assert call("RepositoryModelLoad", {"model_name": "m"}) == pb.RepositoryModelLoadResponse()
    assert call("RepositoryModelUnload", {"model_name": "m"})[0] == "INVALID_ARGUMENT"
    assert call("ModelReady", {"name": "m", "version": "3"}).ready
    told = call("ModelMetadata", {"name": "m"})
    assert {one.name: (one.datatype, list(one.shape)) for one in told.inputs}["n"] == ("INT64", [-1])
    assert (told.name, told.versions, told.platform) == ("m", ["3"], "penstock")
    assert call("ServerMetadata", {}).extensions == ["model_repository"]


def test_health_by_grpcs_own_protocol() -> None:
    """Of the server and of this service, without a key; there is no other service, and no such method elsewhere."""

    async def run(path: str, body: bytes) -> Any:
        async with (
            opened(DESK, noted.append, remote=True, keys=KEYS) as (_, port),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        ):
            try:
                return await channel.unary_unary(path)(body)
            except grpc.aio.AioRpcError as error:
                return error.code().name

    check = "/grpc.health.v1.Health/Check"
    assert asyncio.run(run(check, b"")) == b"\x08\x01"
    assert asyncio.run(run(check, b"\x0a\x1einference.GRPCInferenceService")) == b"\x08\x01"
    assert asyncio.run(run(check, b"\x0a\x01x")) == "NOT_FOUND"
    assert call("ModelStatistics", {})[0] == "UNIMPLEMENTED"


def test_who_traces_a_call_finds_it_on_the_records() -> None:
    """As metadata of W3C's trace context, and CloudEvents' attributes."""
    carried_by.clear()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def talk(stub: Any) -> None:
        for inputs in (ROW, [tensor("who", "BYTES", [1], bytes_contents=[b"quick"])]):
            request = pb.ModelInferRequest(model_name="m", inputs=inputs)
            await stub.ModelInfer(request, metadata=[("traceparent", trace), ("ce-source", "/here")])

    asked(talk)
    assert carried_by and all(one == {"traceparent": trace, "ce-source": "/here"} for one in carried_by)


def test_calls_of_one_turn_carry_their_own() -> None:
    """Whichever of them comes first."""
    carried_by.clear()
    traces = [f"00-0af7651916cd43dd8448eb211c80319c-{n:016x}-01" for n in range(1, 6)]

    async def talk(stub: Any) -> None:
        request = pb.ModelInferRequest(model_name="m", inputs=ROW[:2])
        await asyncio.gather(*(stub.ModelInfer(request, metadata=[("traceparent", one)]) for one in traces))

    asked(talk)
    assert Counter(one["traceparent"] for one in carried_by) == dict.fromkeys(traces, 1)


def test_how_long_a_caller_waits() -> None:
    """As long as its deadline and its parameter say, and ten seconds at most."""
    waits.clear()
    fields = {"model_name": "m", "inputs": ROW}
    for timeout_s, parameters in ((1.98, {}), (60.0, {}), (60.0, {"timeout": {"int64_param": 500_000}})):
        call("ModelInfer", {**fields, "parameters": parameters}, timeout=timeout_s)
    # gRPC rounds a time up to a hundredth of it.
    assert 1 < waits[0] <= 2 and waits[1:] == [10.0, 0.5]


def test_rows_without_a_score_say_why() -> None:
    """One alone is a status; among others it is a column."""
    assert call("ModelInfer", {"model_name": "m", "inputs": who("failed")})[0] == "DEADLINE_EXCEEDED"
    two = [
        tensor("who", "BYTES", [2], bytes_contents=[b"failed", b"a"]),
        tensor("x", "FP64", [2], fp64_contents=[1, 2]),
    ]
    found = {one.name: one.contents for one in call("ModelInfer", {"model_name": "m", "inputs": two}).outputs}
    assert found["error"].bytes_contents == [b"model_late", b""] and found["positive"].bool_contents == [
        False,
        False,
    ]
    assert math.isnan(found["score"].fp64_contents[0]) and found["score"].fp64_contents[1] == 0.25


_TEXT = st.text(max_size=8)
_TENSORS = st.builds(
    lambda name, shape, contents: {"name": name, "shape": shape, **contents},
    _TEXT, st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.one_of(*[
        st.builds(
            lambda datatype, field, data: {"datatype": datatype, "contents": {field: data}}, st.just(datatype),
            st.just(field), st.lists(values, max_size=5),
        )
        for datatype, field, values in [
            ("BOOL", "bool_contents", st.booleans()), ("INT8", "int_contents", st.integers(-(2**31), 2**31 - 1)),
            ("INT64", "int64_contents", st.integers(-(2**63), 2**63 - 1)),
            ("UINT16", "uint_contents", st.integers(0, 2**32 - 1)),
            ("UINT64", "uint64_contents", st.integers(0, 2**64 - 1)),
            ("FP32", "fp32_contents", st.floats(width=32, allow_nan=False)),
            ("FP64", "fp64_contents", st.floats(allow_nan=False)), ("BYTES", "bytes_contents", _TEXT.map(str.encode)),
        ]
    ]),
)  # fmt: skip


@given(
    st.fixed_dictionaries({
        "model_name": _TEXT, "model_version": _TEXT, "id": _TEXT, "inputs": st.lists(_TENSORS, max_size=3),
        "outputs": st.lists(_TEXT.map(lambda name: {"name": name}), max_size=3),
        "raw_input_contents": st.lists(st.binary(max_size=9), max_size=3),
        "parameters": st.fixed_dictionaries({"timeout": st.integers(1, 2**62).map(lambda n: {"int64_param": n})}),
    })
)  # fmt: skip
@settings(max_examples=40)
def test_messages_are_read_as_their_own_library_reads_them(fields: dict[str, Any]) -> None:
    """Whatever stands in them, in whichever order."""
    request = pb.ModelInferRequest(**fields)
    for data in (request.SerializeToString(), _turned(fields)):
        found = read(data)
        assert (found.model, found.version, found.id) == (
            fields["model_name"],
            fields["model_version"],
            fields["id"],
        )
        assert found.timeout_us == fields["parameters"]["timeout"]["int64_param"]
        assert found.raw == fields["raw_input_contents"]
        assert found.outputs == [one["name"] for one in fields["outputs"]]
        for one, wanted in zip(found.inputs, request.inputs, strict=True):
            (contents,) = wanted.contents.ListFields() or [(None, [])]
            values = [value.decode() if type(value) is bytes else value for value in contents[1]]
            assert (one.name, one.datatype, one.shape, one.data) == (
                wanted.name, wanted.datatype, list(wanted.shape), values,
            )  # fmt: skip


def _turned(fields: dict[str, Any]) -> bytes:
    """The same message with its fields in another order, and one that nobody knows."""
    parts = [pb.ModelInferRequest(**{name: value}).SerializeToString() for name, value in fields.items()]
    return b"".join([*reversed(parts), b"\xfa\x01\x03abc\xf8\x01\x05\xfd\x01abcd"])


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_what_is_no_message_is_refused(before: bytes, after: bytes) -> None:
    """Any bytes are read, or refused in the house's words; and no number is taken for what it is not."""
    good = pb.ModelInferRequest(model_name="m", inputs=ROW).SerializeToString()
    for data in (before, before + good + after, good[: len(before)], good[:-1]):
        try:
            found = read(data)
        except BadRequest:
            continue
        library = pb.ModelInferRequest.FromString(data)
        assert found.model == library.model_name and len(found.inputs) == len(library.inputs)


def test_a_number_is_where_it_is() -> None:
    """Not at the end, where something else follows it; and written alone, without a length, it is the same."""
    inner = b"\x0a\x01x\x12\x04FP64\x1a\x01\x01"
    for value in (1.5, 2.5):
        number = struct.pack("<d", value)
        for contents in (b"\x3a\x08" + number, b"\x39" + number, b"\x3a\x08" + number + b"\x3a\x00"):
            one = inner + b"\x2a" + bytes([len(contents)]) + contents
            whole = b"\x2a" + bytes([len(one)]) + one
            (found,) = read(whole).inputs
            assert (found.name, found.shape, found.data) == ("x", [1], [value])
            for cut in range(1, len(whole)):
                with pytest.raises(BadRequest):
                    read(whole[:cut])


def test_a_message_of_nothing_but_parts_is_refused() -> None:
    """Each takes two bytes, and its time."""
    with pytest.raises(BadRequest, match="parts"):
        read(b"\x2a\x00" * (MOST_FIELDS // 10))
    with pytest.raises(BadRequest, match="parts"):
        read(
            pb.ModelInferRequest(
                inputs=[tensor("n", "INT64", [1], int64_contents=[0] * (MOST_FIELDS + 1))]
            ).SerializeToString()
        )


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
