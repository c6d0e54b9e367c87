"""app: the models that answer, by digest: loaded once, beside what answers now, the slow ones apart."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from penstock.app.pipeline import File, load_text
from penstock.app.scoring.apart import LIMITS, PATIENT, Apart
from penstock.app.scoring.order import Scoring
from penstock.app.scoring.outside import scorer
from penstock.app.scoring.piped import Piped, house
from penstock.log import Blob, Log
from penstock.model.outside import Endpoint
from penstock.model.pack import Model, Predict, headed, load, outside
from penstock.record.decisions import Version
from penstock.record.errors import PenstockError, Unavailable
from penstock.release.registry import registry

KEPT = 16
"""So many models stay in memory; the one that was loaded first goes first."""


class Slow(BaseException):
    """Somebody in a hurry came upon a model that is not here, or may take its time."""


class Models:
    """Models by digest, with the `predict` of the code that they were trained by. `apart`: the home, where models
    without a form are to be scored in processes of their own, and versions loaded beside those that answer."""

    def __init__(self, file: File, log: Log, blobs: Blob, apart: Path | None = None) -> None:
        self.log, self.blobs, self.apart = log, blobs, apart
        self.loaded: dict[str, Model] = {}
        self.noted: Callable[[str, str], None] = lambda model, code: None
        self._trained: dict[str, Version] = {}  # the first version that a digest was registered as
        self._files = {file.code: file}
        self._path = file.path
        self._coming: set[str] = set()
        self._loading: dict[str, threading.Lock] = {}
        self._apart: dict[str, Apart] = {}
        self._lock = threading.Lock()
        self._hurry = threading.local()

    def know(self, digest: str) -> None:
        """Look up by which code a model was trained. The log may be away: then it is asked again later, for
        nobody else can tell."""
        if digest not in self._trained:
            for entry in registry(self.log).models.values():
                for one in entry.versions.values():
                    self._trained.setdefault(one.digest, one)

    def get(self, digest: str) -> Model:
        """The model of a digest; raises NotFound or Broken when its blob is not to be had, Slow to who is in a
        hurry."""
        model = self.loaded.get(digest)
        hurries = getattr(self._hurry, "on", False)
        if hurries and (model is None or not model.quick):
            raise Slow
        return model or self._load(digest)

    def ready(self, digest: str) -> bool:
        """Whether a model is here; else it is fetched, beside whatever goes on. Where nothing is loaded beside, who
        asks for it gets it."""
        if digest in self.loaded or self.apart is None:
            return True
        with self._lock:
            if digest not in self._coming:
                self._coming.add(digest)
                threading.Thread(
                    target=self._fetch, args=(digest,), name="penstock-load", daemon=True
                ).start()
        return False

    def is_quick(self, digest: str) -> bool:
        """Whether a model is here, and known to answer in next to no time whatever it is asked; one that is not
        here does not keep those waiting that are."""
        model = self.loaded.get(digest)
        if model is None and self.apart is not None:
            return not self.ready(digest)
        try:
            return self.get(digest).quick
        except PenstockError:  # whoever is answered by it is told
            return False

    @contextlib.contextmanager
    def in_a_hurry(self) -> Iterator[None]:
        """Within it this thread waits for no model."""
        self._hurry.on = True
        try:
            yield
        finally:
            self._hurry.on = False

    def close(self) -> None:
        """End the processes of models that are scored apart."""
        for one in self._apart.values():
            one.close()

    def _fetch(self, digest: str) -> None:
        try:
            self._load(digest)
        except PenstockError:  # whoever is answered by it is told
            pass
        finally:
            with self._lock:
                self._coming.discard(digest)

    def _load(self, digest: str) -> Model:
        with self._lock:
            mine = self._loading.setdefault(digest, threading.Lock())
        with mine:  # who comes meanwhile gets the same one
            return self.loaded.get(digest) or self._made(digest)

    def _made(self, digest: str) -> Model:
        self.know(digest)
        known, data = self._trained.get(digest), self.blobs.get(digest)
        name = known.model if known else ""
        if (there := outside(data)) is not None:
            model = self._outside(digest, there, name)
        elif known is not None and self.apart is not None and not known.form:
            model = self._apart_model(known, self.apart)
        else:
            form = self.blobs.get(known.form) if known and known.form else b""
            model = load(data, None if form else self._predict(digest), form)
            if form:
                model.warm()
        with self._lock:
            kept = dict(list(self.loaded.items())[1 - KEPT :])
            for gone in set(self.loaded) - set(kept):
                if gone in self._apart:
                    self._apart.pop(gone).close()
            self.loaded = {**kept, digest: model}
        return model

    def _apart_model(self, known: Version, home: Path) -> Model:
        order = Scoring(str(home.absolute()), known.digest, known.code, self._path, known.model)
        one = Apart(Piped(house(order)), noted=lambda code: self.noted(known.model, code))
        one.start()
        self._apart[known.digest] = one
        return headed(self.blobs.get(known.digest), one)

    def _outside(self, digest: str, model: Model, name: str) -> Model:
        """What scores outside of Python does so wherever it is asked. That it does not come up keeps no version from
        being here: it is told row by row, and left alone when it goes on."""
        limits = LIMITS if self.apart is not None else PATIENT
        one = scorer(model, limits, lambda code: self.noted(name, code))
        assert one is not None
        if not isinstance(model.fitted, Endpoint):
            with contextlib.suppress(Unavailable):
                one.start()
        self._apart[digest] = one
        return msgspec.structs.replace(model, apart=one)

    def _predict(self, digest: str) -> Predict | None:
        """What the code that a model was trained by says to score with; its classes are known from then on."""
        if digest not in self._trained:
            return None
        known = self._trained[digest]
        if known.code not in self._files:
            self._files[known.code] = load_text(self.blobs.get(known.code), self._path)
        return self._files[known.code].plan(known.model).pipeline.predict
