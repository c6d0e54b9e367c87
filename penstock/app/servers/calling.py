"""app: the door of gRPC, open on a port, on an event loop and a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import threading
from collections.abc import Callable

from penstock.app.servers.listening import GRACE_S
from penstock.record.errors import Refused, Unavailable
from penstock.serve.desk import Desk
from penstock.serve.identity import Keys


def free(host: str, port: int) -> int:
    """A port: the one that is asked for, or one that nobody has where that is 0."""
    if port:
        return port
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
        return int(found.getsockname()[1])


class Calling:
    """The service on a port, which processes of one machine may share."""

    def __init__(
        self, desk: Desk, keys: Keys | None, note: Callable[[BaseException], None], host: str, port: int
    ) -> None:
        try:
            import grpc  # noqa: F401
        except ImportError:
            raise Refused("gRPC needs grpcio.", code="no_grpc", hint="pip install 'penstock[grpc]'") from None
        self._desk, self._keys, self._note = desk, keys, note
        self._at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._ready: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="penstock-grpc", daemon=True)

    def start(self, within_s: float = 10.0) -> None:
        """Open it; raises Unavailable when the port is taken."""
        self._thread.start()
        error = self._ready.get(timeout=within_s)
        if error is not None:
            raise Unavailable(
                f"{self._at} cannot be opened for gRPC.", code="port", hint="Take another: --grpc-port."
            )

    def stop(self) -> None:
        """Take no further call, let those under way finish, then close."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(GRACE_S + 5)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # told to whoever starts it
            self._ready.put(error)
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        import grpc.aio

        from penstock.serve.grpc.service import MESSAGE_BYTES, handler

        options = [("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.so_reuseport", 1)]
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=4096)
        server.add_generic_rpc_handlers((handler(self._desk, self._keys, self._note),))
        server.add_insecure_port(self._at)
        await server.start()
        self._ready.put(None)
        await self._stopping.wait()
        await server.stop(GRACE_S)
