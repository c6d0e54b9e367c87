"""app: the models that answer, by digest: loaded once, beside what answers now, the slow ones apart."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from penstock.app.limits import Limits
from penstock.app.pipeline import File, load_text
from penstock.app.scoring.apart import LIMITS, PATIENT, Apart
from penstock.app.scoring.order import Scoring
from penstock.app.scoring.outside import scorer
from penstock.app.scoring.piped import Speech, house
from penstock.app.scoring.pool import Pool
from penstock.log import Blob, Log
from penstock.model.outside import Endpoint
from penstock.model.pack import Model, Predict, load, outside
from penstock.record.decisions import Version
from penstock.record.errors import PenstockError, Unavailable
from penstock.release.registry import registry

MODELS_BYTES = 4 << 30
"""What the models in memory may take together, where nothing else is said."""


class Slow(BaseException):
    """Somebody in a hurry came upon a model that is not here, or may take its time."""


class Models:
    """Models by digest, with the `predict` of the code that they were trained by. `apart`: the home, where models
    without a form are to be scored in processes of their own, and versions loaded beside those that answer.
    `most_bytes`: what those in memory may take, their processes among them: beyond it the one that was asked longest
    ago goes, and comes again when it is asked. `size`: what a model takes, from the bytes that it was made of."""

    def __init__(
        self,
        file: File,
        log: Log,
        blobs: Blob,
        apart: Path | None = None,
        *,
        most_bytes: int = MODELS_BYTES,
        size: Callable[[Model, int], int] | None = None,
    ) -> None:
        self.log, self.blobs, self.apart = log, blobs, apart
        self.most_bytes, self.size = most_bytes, size or size_of
        self.loaded: dict[str, Model] = {}
        self._made_of: dict[str, int] = {}
        self._asked: dict[str, int] = {}  # when each was last asked, in the order of all that were asked
        self._order = itertools.count()
        self.noted: Callable[[str, str], None] = lambda model, code: None
        self.gone: Callable[[int], None] = lambda n: None
        self.waiting: Callable[[str], int] = lambda model: 0  # how many rows wait for a model's answers now
        self.quick: Callable[[Model], bool] = lambda model: model.quick
        self._trained: dict[str, Version] = {}  # the first version that a digest was registered as
        self._files, self._plans = {file.code: file}, file.plans
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
        self._asked[digest] = next(self._order)
        hurries = getattr(self._hurry, "on", False)
        if hurries and (model is None or not self.quick(model)):
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
            return self.quick(self.get(digest))
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
        known = self._trained.get(digest)
        if known is not None and self.apart is not None and not known.form and not known.form_kind:
            model, size = self._apart_model(known, self.apart), known.size_bytes
        else:
            model, size = self._here(digest, known)
        with self._lock:
            self.loaded, self._made_of[digest] = {**self.loaded, digest: model}, size
        self._make_room(digest)
        return model

    def _here(self, digest: str, known: Version | None) -> tuple[Model, int]:
        """A model in this process, or what asks one outside of Python; and the bytes that it was made of."""
        data = self.blobs.get(digest)
        if (there := outside(data)) is not None:
            return self._outside(digest, there, known.model if known else ""), len(data)
        form = self.blobs.get(known.form) if known and known.form else b""
        model = load(data, None if form else self._predict(digest), form)
        if form:
            model.warm()
        return model, len(form or data)

    def _make_room(self, new: str) -> None:
        """Let go of those that were asked longest ago until the others have room. A process that scores ends with the
        last use of its model."""
        with self._lock:
            sizes = {one: self.size(model, self._made_of[one]) for one, model in self.loaded.items()}
            others = sorted(sizes.keys() - {new}, key=lambda one: self._asked.get(one, -1))
            gone = set[str]()
            for one in others:
                if sum(sizes.values()) <= self.most_bytes:
                    break
                del sizes[one]
                gone.add(one)
            self.loaded = {one: model for one, model in self.loaded.items() if one not in gone}
            for one in gone:
                self._apart.pop(one, None)
                self._asked.pop(one, None)
                del self._made_of[one]
        if gone:
            self.gone(len(gone))
            give_back()

    def _apart_model(self, known: Version, home: Path) -> Model:
        """A model that a process of its own has: its bytes, which may be many, are read there and not here."""
        order = Scoring(str(home.absolute()), known.digest, known.code, self._path, known.model)
        one = Apart(self._pool(known.model, house(order)), noted=lambda code: self.noted(known.model, code))
        weakref.finalize(one, one.asks.close)
        one.start()
        self._apart[known.digest] = one
        return Model(known.features, "number", [], None, None, None, one)

    def _pool(self, model: str, speech: Speech) -> Pool:
        """The processes that score a model, as many as its limits say."""
        plan = self._plans.get(model)
        most = (plan.pipeline.limits if plan is not None else Limits()).processes
        return Pool(speech, most, lambda: self.waiting(model))

    def _outside(self, digest: str, model: Model, name: str) -> Model:
        """What scores outside of Python does so wherever it is asked. That it does not come up keeps no version from
        being here: it is told row by row, and left alone when it goes on."""
        limits = LIMITS if self.apart is not None else PATIENT
        pool = partial(self._pool, name) if self.apart is not None else Pool
        one = scorer(model, limits, lambda code: self.noted(name, code), pool)
        assert one is not None
        weakref.finalize(one, one.asks.close)
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


def size_of(model: Model, made_of: int) -> int:
    """What a model takes: the memory of its process, or about what it was made of."""
    return max(made_of, model.apart.memory() if isinstance(model.apart, Apart) else 0)


def give_back() -> None:
    """Let the machine have the memory that nothing here needs any more: the C library keeps it else."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU library
        if trim is not None:
            trim(0)
