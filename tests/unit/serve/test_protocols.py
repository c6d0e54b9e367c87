"""serve: each protocol says what its clients wait for, and refuses in its own words."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.serve.test_http import DESK, JSON, call, noted
from tests.unit.serve.wire import asked

ROW = {"who": "a", "x": 1.0, "n": 2, "flag": True}
FEATURES = [0.5, 1.5]


def post(path: str, body: Any, **headers: str) -> Any:
    """A call with a body of JSON, or these very bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return call("POST", path, content=content, headers={**JSON, **headers})


# Plain JSON.


def test_a_row_or_a_list_of_rows() -> None:
    """One answer as an object, several as a list; the request's columns or every feature."""
    one = post("/models/m", ROW).json()
    assert one == {
        "score": 0.25, "positive": False, "version": 3, "request_id": "r0", "prediction_id": "predict.m:ask:7:0",
    }  # fmt: skip
    assert [row["prediction_id"] for row in post("/models/m", [ROW, ROW]).json()] == [
        "predict.m:ask:7:0",
        "predict.m:ask:8:0",
    ]
    assert post("/models/m", {"x": 1.0, "total": 2.0}).status_code == 200
    assert post("/models/m", [FEATURES]).status_code == 200


PLAIN_REFUSED: dict[str, tuple[bytes, int, str]] = {
    "no JSON": (b"{", 400, "malformed"),
    "NaN": (b'{"x": NaN}', 400, "malformed"),
    "a key twice": (b'{"x": 1, "x": 2}', 400, "duplicate_key"),
    "a number": (b"7", 400, "malformed"),
    "no rows": (b"[]", 400, "malformed"),
    "a strange column": (b'{"who": "a", "xx": 1}', 422, "unknown_column"),
    "rows that differ": (b'[{"who": "a", "x": 1}, {"who": "a", "n": 1}]', 422, "missing_column"),
    "a mixture": (b'[{"who": "a"}, [1, 2]]', 422, "shape"),
    "too short": (b"[[1]]", 422, "shape"),
    "a feature of objects": (b'[[{"secret": 1}, 2]]', 422, "wrong_type"),
}


@pytest.mark.parametrize("case", PLAIN_REFUSED)
def test_what_is_no_row_is_refused(case: str) -> None:
    """With the place, never the value."""
    body, status, code = PLAIN_REFUSED[case]
    answer = post("/models/m", body)
    assert (answer.status_code, answer.json()["code"]) == (status, code) and "secret" not in answer.text


def test_a_packed_body_is_unpacked_and_bounded() -> None:
    """gzip and deflate; what unpacks to more than is taken is too large, what is cut off or no such thing malformed."""
    body = json.dumps(ROW).encode()
    for coding, data in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        assert post("/models/m", data, **{"content-encoding": coding}).status_code == 200
    bomb = gzip.compress(b" " * (300 << 20), 1)
    assert post("/models/m", bomb, **{"content-encoding": "gzip"}).status_code == 413
    for data in (gzip.compress(body)[:-9], b"abc", gzip.compress(body) + b"more"):
        assert post("/models/m", data, **{"content-encoding": "gzip"}).status_code == 400
    assert post("/models/m", body, **{"content-encoding": "br"}).status_code == 415


def test_a_caller_says_how_long_it_waits() -> None:
    """In whole milliseconds, and no longer than the server does."""
    assert post("/models/m", {**ROW, "who": "late"}).status_code == 504
    assert post("/models/m", ROW, **{"timeout-ms": "250"}).status_code == 200
    for odd in ("0", "-1", "1.5", "soon", "9999999999"):
        assert post("/models/m", ROW, **{"timeout-ms": odd}).status_code == 400


# The Open Inference Protocol.


def tensor(name: str, datatype: str, shape: list[int], data: Any = None, **more: Any) -> dict[str, Any]:
    """An input."""
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        **({} if data is None else {"data": data}),
        **more,
    }


def test_a_matrix_holds_every_feature() -> None:
    """Flat or nested; of any name that is no column."""
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        answer = post("/v2/models/m/infer", {"inputs": [tensor("input-0", "FP32", [2, 2], data)]})
        assert answer.status_code == 200 and answer.json()["outputs"][0]["shape"] == [2]
    assert post("/v2/models/m/infer", {"inputs": [tensor("i", "FP32", [1, 3], [1, 2, 3])]}).status_code == 400
    assert post("/v2/models/m/infer", {"inputs": [tensor("i", "FP32", [2, 2], [1, 2, 3])]}).status_code == 400


def binary(*inputs: tuple[str, str, list[int], bytes], **request: Any) -> Any:
    """A call with tensors as bytes."""
    tensors = [
        tensor(n, kind, shape, parameters={"binary_data_size": len(data)}) for n, kind, shape, data in inputs
    ]
    head = json.dumps({"inputs": tensors, **request}).encode()
    headers = {"content-type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    body = head + b"".join(data for *_, data in inputs)
    return call("POST", "/v2/models/m/infer", content=body, headers=headers)


@pytest.mark.parametrize("kind", ["FP64", "FP32", "FP16", "BF16"])
def test_tensors_come_as_bytes(kind: str) -> None:
    """Of every width; answers go as bytes where that is asked for."""
    data = {"FP64": "<f8", "FP32": "<f4", "FP16": "<f2"}
    numbers = np.array([[0.5, 1.5], [2.0, -1.0]])
    packed = (
        numbers.astype(data[kind]).tobytes()
        if kind in data
        else (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    )
    answer = binary(("x0", kind, [2, 2], packed), parameters={"binary_data_output": True}, id="mine")
    length = int(answer.headers["inference-header-content-length"])
    told, rest = json.loads(answer.content[:length]), answer.content[length:]
    assert answer.status_code == 200 and told["id"] == "mine"
    sizes = [one["parameters"]["binary_data_size"] for one in told["outputs"]]
    assert sum(sizes) == len(rest) and np.frombuffer(rest[: sizes[0]]).tolist() == [0.25, 0.25]
    mixed = binary(("x0", kind, [2, 2], packed), outputs=[
        {"name": "version", "parameters": {"binary_data": True}}, {"name": "score"},
    ])  # fmt: skip
    assert mixed.status_code == 200 and mixed.content.endswith(np.array([3, 3], "<i8").tobytes())


def test_texts_and_ints_come_as_bytes() -> None:
    """A text behind its length; ints of every width."""
    who = b"\x01\x00\x00\x00a\x02\x00\x00\x00bc"
    answer = binary(
        ("who", "BYTES", [2], who), ("x", "FP64", [2], np.zeros(2).tobytes()), ("n", "INT8", [2], b"\x01\xff")
    )
    assert answer.status_code == 200, answer.text


BAD_BYTES: dict[str, tuple[tuple[str, str, list[int], bytes], dict[str, Any]]] = {
    "cut": (("who", "BYTES", [1], b"\x05\x00\x00\x00ab"), {}),
    "no text": (("who", "BYTES", [1], b"\x01\x00\x00\x00\xff"), {}),
    "no whole number": (("x", "FP64", [1], b"1234567"), {}),
    "another shape": (("x", "FP64", [3], b"12345678"), {}),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bytes_that_are_no_tensor_are_refused(case: str) -> None:
    """With the input's name."""
    one, more = BAD_BYTES[case]
    answer = binary(one, **more)
    assert answer.status_code == 400 and one[0] in answer.json()["error"]


def test_lengths_that_do_not_fit_are_refused() -> None:
    """Of the JSON and of each input; and what is left over."""
    body = json.dumps({"inputs": [tensor("x", "FP64", [1], parameters={"binary_data_size": 8})]}).encode()
    for length, rest in (
        ("abc", b"12345678"),
        ("99999", b"12345678"),
        (str(len(body)), b"1234"),
        (str(len(body)), b"1" * 9),
    ):
        headers = {"content-type": "application/octet-stream", "Inference-Header-Content-Length": length}
        assert call("POST", "/v2/models/m/infer", content=body + rest, headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("kind", "value"), [("INT8", 300), ("UINT8", -1), ("INT64", 2**63), ("UINT64", 2**64), ("INT32", 1.5)]
)
def test_a_value_beyond_its_type_is_refused(kind: str, value: Any) -> None:
    """Naming the column and the row, not the value."""
    answer = post("/v2/models/m/infer", {"inputs": [tensor("n", kind, [2], [1, value])]})
    assert (
        answer.status_code == 422 and "n, row 1" in answer.json()["error"] and str(value) not in answer.text
    )


def test_the_repository_says_what_is_true() -> None:
    """Models are loaded by their releases: what answers is ready, and cannot be unloaded."""
    assert call("POST", "/v2/repository/index").json() == [
        {"name": "m", "version": "3", "state": "READY", "reason": ""}
    ]
    assert call("POST", "/v2/repository/models/m/load").status_code == 200
    refused = call("POST", "/v2/repository/models/m/unload")
    assert refused.status_code == 422 and refused.json()["code"] == "released"
    assert call("POST", "/v2/repository/models/mm/load").status_code == 404
    assert call("GET", "/v2").json()["extensions"] == ["binary_tensor_data", "model_repository"]


# TensorFlow Serving.


def test_predict_by_rows_and_by_columns() -> None:
    """`instances` answer `predictions`, `inputs` answer `outputs`; bytes may be written in base 64."""
    assert post("/v1/models/m:predict", {"instances": [ROW, ROW]}).json() == {"predictions": [0.25, 0.25]}
    assert post("/v1/models/m:predict", {"instances": [FEATURES]}).json() == {"predictions": [0.25]}
    columns = {name: [value, value] for name, value in ROW.items()}
    assert post("/v1/models/m:predict", {"inputs": columns}).json() == {"outputs": [0.25, 0.25]}
    assert post("/v1/models/m:predict", {"inputs": [FEATURES, FEATURES]}).json() == {"outputs": [0.25, 0.25]}
    assert post("/v1/models/m:predict", {"inputs": {"dense": [FEATURES]}}).json() == {"outputs": [0.25]}
    text = {"b64": base64.b64encode(b"a").decode()}
    assert post("/v1/models/m/versions/3:predict", {"instances": [{**ROW, "who": text}]}).status_code == 200
    assert (
        post(
            "/v1/models/m/labels/champion:predict", {"signature_name": "serving_default", "instances": [ROW]}
        ).status_code
        == 200
    )


def test_classify_and_regress() -> None:
    """With what all examples share in the context."""
    body = {"context": {"who": "a"}, "examples": [{"x": 1.0}, {"x": 2.0}]}
    assert post("/v1/models/m:classify", body).json() == {"results": [[["true", 0.25], ["false", 0.75]]] * 2}
    assert post("/v1/models/m:regress", body).json() == {"results": [0.25, 0.25]}


def test_status_and_metadata() -> None:
    """As TensorFlow's clients read them."""
    told = call("GET", "/v1/models/m").json()["model_version_status"]
    assert told == [
        {"version": "3", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    assert call("GET", "/v1/models/m/versions/3").status_code == 200
    assert call("GET", "/v1/models/m/versions/4").status_code == 404
    spec = call("GET", "/v1/models/m/metadata").json()
    signature = spec["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert spec["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}
    assert (
        signature["inputs"]["n"]["dtype"] == "DT_INT64"
        and signature["method_name"] == "tensorflow/serving/predict"
    )


TF_REFUSED: dict[str, tuple[str, Any, int]] = {
    "both": ("m:predict", {"instances": [ROW], "inputs": {"x": [1]}}, 400),
    "neither": ("m:predict", {}, 400),
    "a list": ("m:predict", [ROW], 400),
    "another signature": ("m:predict", {"signature_name": "other", "instances": [ROW]}, 400),
    "two sizes": ("m:predict", {"inputs": {"x": [1, 2], "who": ["a"]}}, 400),
    "bad base 64": ("m:predict", {"instances": [{"who": {"b64": "!"}}]}, 400),
    "another verb": ("m:explain", {"instances": [ROW]}, 404),
    "another version": ("m/versions/2:predict", {"instances": [ROW]}, 404),
    "another label": ("m/labels/canary:predict", {"instances": [ROW]}, 404),
    "another model": ("mm:predict", {"instances": [ROW]}, 404),
    "no examples": ("m:classify", {"instances": [ROW]}, 400),
}


@pytest.mark.parametrize("case", TF_REFUSED)
def test_tensorflow_clients_are_told_why(case: str) -> None:
    """In an object with the error."""
    path, body, status = TF_REFUSED[case]
    answer = post(f"/v1/models/{path}", body)
    assert answer.status_code == status and answer.json()["error"]


# MLflow.

SPLIT = {"columns": list(ROW), "data": [list(ROW.values())]}
MLFLOW: dict[str, Any] = {
    "dataframe_split": {"dataframe_split": SPLIT},
    "dataframe_split with an index": {"dataframe_split": {**SPLIT, "index": [0]}, "params": {}},
    "dataframe_records": {"dataframe_records": [ROW]},
    "instances": {"instances": [FEATURES]},
    "inputs": {"inputs": {name: [value] for name, value in ROW.items()}},
    "inputs of lists": {"inputs": [FEATURES]},
}


@pytest.mark.parametrize("case", MLFLOW)
def test_mlflows_forms(case: str) -> None:
    """Each of the four, at both addresses."""
    for path in ("/invocations", "/models/m/invocations", "/invocations?model=m"):
        answer = post(path, MLFLOW[case])
        assert answer.status_code == 200 and answer.json() == {"predictions": [0.25]}, answer.text


def test_mlflow_reads_csv() -> None:
    """Each cell as what its column is, an empty one as missing."""
    body = b"who,x,n,flag\na,1.5,2,true\nb,2,3,\n"
    answer = call("POST", "/invocations", content=body, headers={"content-type": "text/csv; charset=utf-8"})
    assert answer.status_code == 200 and answer.json() == {"predictions": [0.25, 0.25]}, answer.text
    for bad, status in (
        (b"who,x\na\n", 400),
        (b"who,who\na,b\n", 400),
        (b"who,n\na,secret\n", 422),
        (b"", 400),
        (b'who\n"a', 400),
    ):
        answer = call("POST", "/invocations", content=bad, headers={"content-type": "text/csv"})
        assert (
            answer.status_code == status
            and answer.json()["error_code"] == "BAD_REQUEST"
            and "secret" not in answer.text
        )


def test_mlflows_errors_and_health() -> None:
    """In its words, without a traceback."""
    assert [call("GET", path).status_code for path in ("/ping", "/health", "/version")] == [200] * 3
    for body in (b"{}", b"[1]", json.dumps({"instances": [ROW], "inputs": [ROW]}).encode(), b"{"):
        answer = post("/invocations", body)
        assert answer.status_code == 400 and set(answer.json()) == {"error_code", "message", "code"}
    assert (
        post("/invocations?model=mm", MLFLOW["instances"]).json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    )
    late = post("/invocations", {"dataframe_records": [{**ROW, "who": "late"}]})
    assert late.status_code == 504 and late.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"
    boom = post("/invocations", {"dataframe_records": [{**ROW, "who": "boom"}]})
    assert boom.status_code == 500 and "secret" not in boom.text


# The description.


def test_the_description_is_of_the_types() -> None:
    """Every column with its type; what is filled in is not required; the page shows every address and no script."""
    told = call("GET", "/openapi.json").json()
    schema = told["components"]["schemas"]["m.Request"]
    assert told["openapi"] == "3.1.0" and set(schema["properties"]) == {
        "ask_id",
        "who",
        "at",
        "x",
        "n",
        "flag",
    }
    assert schema["required"] == ["who", "x", "n", "flag"] and schema["properties"]["n"]["type"] == "integer"
    for path, methods in told["paths"].items():
        for method, one in methods.items():
            body = one.get("requestBody", {}).get("content", {}).get("application/json")
            answer = call(method.upper(), path, **({"json": body["example"]} if body else {}))
            assert answer.status_code == 200, (path, answer.text)
    page = call("GET", "/docs")
    assert page.status_code == 200 and "<script" not in page.text and "/v1/models/m:predict" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


BODIES: list[tuple[str, bytes, str]] = [
    ("/models/m", json.dumps([ROW, ROW]).encode(), "application/json"),
    (
        "/v1/models/m:predict",
        json.dumps({"inputs": {name: [value] for name, value in ROW.items()}}).encode(),
        "application/json",
    ),
    ("/v1/models/m:classify", json.dumps({"context": {}, "examples": [ROW]}).encode(), "application/json"),
    ("/invocations", json.dumps(MLFLOW["dataframe_split"]).encode(), "application/json"),
    ("/invocations", b"who,x,n,flag\na,1.5,2,true\n", "text/csv"),
    (
        "/v2/models/m/infer",
        json.dumps({"inputs": [tensor("i", "FP32", [1, 2], [1, 2])]}).encode(),
        "application/json",
    ),
]
PIECES = st.sampled_from(
    [
        b"",
        b"0",
        b"-1",
        b"1e999",
        b"NaN",
        b"null",
        b'"',
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"\xff",
        b"\\ud800",
        b"9" * 40,
    ]
)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_mutated_body_never_breaks_a_protocol(data: st.DataObject) -> None:
    """It is answered or refused, always in strict JSON."""
    noted.clear()

    async def ask(client: Any) -> list[Any]:
        answers = []
        for path, body, kind in BODIES:
            at = data.draw(st.integers(0, len(body)))
            cut = data.draw(st.integers(0, 12))
            changed = body[:at] + data.draw(PIECES) + body[at + cut :]
            answers.append(await client.post(path, content=changed, headers={"content-type": kind}))
        return answers

    for answer in asked(DESK, noted.append, ask):
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
        json.loads(answer.content, parse_constant=pytest.fail)
    assert noted == []
