"""log: bytes by digest, in a folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from penstock.log.crash import Point, point
from penstock.log.machine import make_folder, said_of_files, sync_folder, synced
from penstock.record.codec import digest as digest_of
from penstock.record.errors import Broken, NotFound


class FolderBlob:
    """Blobs as files: `ab/cdef...`, each put whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest[2:]

    def put(self, data: bytes) -> str:
        """See the port. The bytes and the name are on the disk when this returns."""
        digest = digest_of(data)
        path = self._path(digest)
        with said_of_files():
            make_folder(self.folder)
            make_folder(path.parent)
            if not path.exists() or path.read_bytes() != data:  # one that was damaged is written again
                _write(path, data)
            point(Point.BLOB_NAMED)
            sync_folder(path.parent)  # one that was there may have come without this
        point(Point.BLOB_KEPT)
        return digest

    def get(self, digest: str) -> bytes:
        """See the port."""
        try:
            with said_of_files():
                data = self._path(digest).read_bytes()
        except NotFound:
            raise NotFound("There is no blob of this digest.", where=digest[:12]) from None
        if digest_of(data) != digest:
            raise Broken("A blob's bytes do not match its digest.", where=digest[:12])
        return data

    def has(self, digest: str) -> bool:
        """See the port."""
        return self._path(digest).exists()


def _write(path: Path, data: bytes) -> None:
    """The bytes under another name, synced, then under theirs."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            point(Point.BLOB)
            file.write(data)
            file.flush()
            point(Point.BLOB_WRITTEN)
            synced(os.fsync, file.fileno())
        point(Point.BLOB_SYNCED)
        os.replace(name, path)
    except BaseException:  # what is half written goes, the error goes on
        Path(name).unlink(missing_ok=True)
        raise
