"""client: ask a Penstock server over HTTP, from plain functions or from asyncio; nothing of the server is needed."""

from penstock.client.aio import AsyncClient
from penstock.client.calls import Answer, Appended, Failed, Health, Inference, Looked, Tensor
from penstock.client.sync import Client
from penstock.client.tries import Policy

__all__ = [
    "Answer",
    "Appended",
    "AsyncClient",
    "Client",
    "Failed",
    "Health",
    "Inference",
    "Looked",
    "Policy",
    "Tensor",
]
