"""predict: verify finds one changed byte in one logged feature value, and names the prediction."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import apsw

from penstock.app.home import Books, open_home
from penstock.app.pipeline import load
from penstock.log.tables import SPAN, Topic, check, fact
from penstock.record.decisions import Prediction, predictions, read
from penstock.record.record import START

CRASH = Path(__file__).parents[2] / "crash"


def changed(folder: Path, old: bytes, new: bytes) -> None:
    """Change bytes of one logged prediction as a fault beneath the log would, the checksum with them."""
    db = apsw.Connection(str(folder / "log.db"))
    topic = fact(db, Topic, predictions("agree"))
    assert topic is not None
    begin = topic.number * SPAN
    sql = "SELECT place, n, ahead, body FROM batch WHERE place >= ? AND place < ? ORDER BY place DESC"
    rows = db.execute(sql, (begin, begin + SPAN))
    place, n, ahead, body = next(row for row in rows if row[3].count(old) >= 1)
    body = body.replace(old, new, 1)
    crc = check(body, predictions("agree"), place - begin, n, ahead)
    db.execute("UPDATE batch SET body = ?, crc = ? WHERE place = ?", (body, crc, place))
    db.close()


def test_an_untouched_log_is_equal(played: Path) -> None:
    """Every prediction is made again to the bit."""
    home = open_home(played)
    found = Books(load(CRASH / "pipeline.py"), home.log, home.blobs).verify("agree")
    home.log.close()
    assert found.predictions > 500 and found.unequal == []


def test_one_changed_byte_is_found(played: Path, tmp_path: Path) -> None:
    """The last bit of one feature value is enough; the prediction and the feature are named."""
    folder = tmp_path / "home"
    shutil.copytree(played, folder)
    home = open_home(folder)
    record = home.log.read([predictions("agree")], START, limit=10**6)[0][-1]
    home.log.close()
    value = read(record, Prediction).values[3]
    assert isinstance(value, float)
    old = b"\xcb" + struct.pack(">d", value)
    changed(folder, old, old[:-1] + bytes([old[-1] ^ 1]))
    home = open_home(folder)
    found = Books(load(CRASH / "pipeline.py"), home.log, home.blobs).verify("agree")
    home.log.close()
    assert [one.what for one in found.unequal] in (["feature usual_x"], ["feature usual_x", "score"])
    assert found.unequal[0].id.startswith("predict.agree:ask:")
