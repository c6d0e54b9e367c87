"""client: ask a Penstock server over HTTP, from plain functions or from asyncio; nothing of the server is needed."""

from penstock.client.aio import AsyncClient
from penstock.client.calls import Answer, Answers, Appended, Failed, Health, Inference, Looked, Queued, Tensor
from penstock.client.sync import Client
from penstock.client.tries import Policy

__all__ = [
    "Answer",
    "Answers",
    "Appended",
    "AsyncClient",
    "Client",
    "Failed",
    "Health",
    "Inference",
    "Looked",
    "Policy",
    "Queued",
    "Tensor",
]
