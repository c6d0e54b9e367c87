"""bench: asks a gRPC server of the Open Inference Protocol, 32 calls at once; what to ask comes on standard input.

Messages are made beforehand, so that the client's own work is sending, receiving and comparing.
"""

import asyncio
import json
import struct
import sys
import time

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

MANY = 32


def message(asked, row):
    request = pb.ModelInferRequest(model_name=asked["model"])
    if asked["columns"]:
        for j, value in enumerate(row):
            tensor = request.inputs.add(name=f"x{j}", datatype="FP64", shape=[1])
            tensor.contents.fp64_contents.append(value)
    else:
        tensor = request.inputs.add(name="x", datatype="FP64", shape=[1, len(row)])
        tensor.contents.fp64_contents.extend(row)
    for name in asked["outputs"]:
        request.outputs.add(name=name)
    return request


def first(answer, name):
    for i, output in enumerate(answer.outputs):
        if not name or output.name == name:
            if answer.raw_output_contents:
                return struct.unpack_from("<d", answer.raw_output_contents[i])[0]
            return output.contents.fp64_contents[0]
    return float("nan")


async def main():
    asked = json.load(sys.stdin)
    requests = [message(asked, row) for row in asked["rows"]]
    counts = {"right": 0, "wrong": 0}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{asked['port']}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        await stub.ModelInfer(requests[0], wait_for_ready=True, timeout=10)
        end = time.monotonic() + asked["seconds"]

        async def work(i):
            while time.monotonic() < end:
                answer = await stub.ModelInfer(requests[i % len(requests)], timeout=10)
                right = abs(first(answer, asked["output"]) - asked["expected"][i % len(requests)]) <= 2e-6
                counts["right" if right else "wrong"] += 1
                i += 1

        await asyncio.gather(*(work(i) for i in range(MANY)))
    print(json.dumps({**counts, "seconds": asked["seconds"]}))


asyncio.run(main())
