"""serve: the whole door on a real socket of this machine, and a client that we did not write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx

from penstock.serve.desk import Desk
from penstock.serve.door import Door
from penstock.serve.front.wire import LIMITS, Limits
from penstock.serve.http import create
from penstock.serve.identity import Keys

T = TypeVar("T")
Note = Callable[[BaseException], None]


@asynccontextmanager
async def opened(
    desk: Desk,
    note: Note,
    *,
    keys: Keys | None = None,
    limits: Limits = LIMITS,
    sweep_s: float = 0.02,
    remote: bool = False,
) -> AsyncIterator[tuple[Door, int]]:
    """An open door and its port; `remote`: gRPC's."""
    loop = asyncio.get_running_loop()
    door = Door(desk, create(desk, None, note), keys, (), note, limits)
    server = await loop.create_server(door.remote if remote else door.front, "127.0.0.1", 0)

    async def sweeping() -> None:
        while True:
            door.turn()
            await asyncio.sleep(sweep_s)

    swept = asyncio.create_task(sweeping())
    try:
        yield door, server.sockets[0].getsockname()[1]
    finally:
        swept.cancel()
        server.close()
        for front in door.fronts:
            front.abort()
        await asyncio.sleep(0)


def asked(desk: Desk, note: Note, ask: Callable[[httpx.AsyncClient], Awaitable[T]], **options: Any) -> T:
    """What a client finds behind the door. `host`: the name that it calls the server by."""
    host = options.pop("host", "127.0.0.1")

    async def run() -> T:
        async with (
            opened(desk, note, **options) as (_, port),
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"host": host}) as client,
        ):
            return await ask(client)

    return asyncio.run(run())


def raw(
    desk: Desk,
    note: Note,
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[T]],
    **options: Any,
) -> T:
    """What a client finds that speaks bytes."""

    async def run() -> T:
        async with opened(desk, note, **options) as (_, port):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                return await talk(reader, writer)
            finally:
                writer.close()

    return asyncio.run(run())


def head_alone(desk: Desk, note: Note, lines: bytes) -> tuple[int, str]:
    """The status and the body of the answer to a head that no body follows."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, str]:
        writer.write(lines + b"\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body.decode()

    return raw(desk, note, talk)
