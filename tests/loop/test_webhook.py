"""loop: alerts go to an address, once each, in order, with what they say."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from penstock.app.home import open_home
from penstock.app.up import Webhook
from penstock.record.decisions import ALERTS, DELIVERIES, Alert, Delivery, draft, read
from penstock.record.record import START

got: list[tuple[str, dict[str, Any]]] = []


class Listener(BaseHTTPRequestHandler):
    """Fails the first time, then takes what comes."""

    def do_POST(self) -> None:
        """Keep the body."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        got.append((self.headers["idempotency-key"], body))
        self.send_response(503 if len(got) == 1 else 200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def test_alerts_are_delivered(tmp_path: Path) -> None:
    """A failed try is repeated under the same id; what was delivered is on the log, and is not sent again."""
    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    home = open_home(tmp_path, create=True)
    alerts = [Alert("m", "missing(x) < 0.05", state, 0.08, 0.05, 1, 99, 5) for state in ("raised", "cleared")]  # type: ignore[arg-type]
    for turn in range(2):
        stop = threading.Event()
        hook = Webhook(home, url, stop)
        begin = hook._begin()
        hook._begin = lambda begin=begin: begin  # type: ignore[method-assign]
        if turn == 0:
            home.log.append(
                [draft(ALERTS, one, key="m", t_ms=5, id=f"alert-{i}") for i, one in enumerate(alerts)]
            )
        hook.start()
        while home.log.count(DELIVERIES) < 2:
            home.log.wait(home.log.end(), 1)
        stop.set()
        hook.join(10)
    server.shutdown()
    server.server_close()
    delivered = [read(one, Delivery) for one in home.log.read([DELIVERIES], START)[0]]
    home.log.close()
    assert [key for key, _ in got] == ["alert-0", "alert-0", "alert-1"]
    assert got[1][1]["rule"] == "missing(x) < 0.05" and got[2][1]["state"] == "cleared"
    assert [(one.alert, one.status) for one in delivered] == [("alert-0", 200), ("alert-1", 200)]
