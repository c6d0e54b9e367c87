"""log: blobs: bytes by digest, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.log.blob import FolderBlob
from penstock.log.memory import MemoryBlob
from penstock.record.errors import Broken, NotFound


@pytest.fixture(params=["memory", "folder"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Each kind of blob store."""
    return MemoryBlob() if request.param == "memory" else FolderBlob(tmp_path)


def test_what_is_put_is_got(blobs: Any) -> None:
    """Under the digest of its bytes, as often as one likes."""
    digest = blobs.put(b"bytes")
    assert blobs.put(b"bytes") == digest and len(digest) == 64
    assert blobs.get(digest) == b"bytes" and blobs.has(digest)
    assert not blobs.has("0" * 64)
    with pytest.raises(NotFound):
        blobs.get("0" * 64)


def test_changed_bytes_are_met(tmp_path: Path) -> None:
    """A file whose bytes are not those of its name is refused."""
    blobs = FolderBlob(tmp_path)
    digest = blobs.put(b"bytes")
    (tmp_path / digest[:2] / digest[2:]).write_bytes(b"bytez")
    with pytest.raises(Broken):
        blobs.get(digest)
