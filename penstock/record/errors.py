"""record: the one family of errors. Every error has a stable code, a sentence, and no user data in it.

Three kinds: `Refused` (the caller can mend it; safe to show), `Unavailable` (try again),
`Broken` (an invariant does not hold; the process that sees it stops).
"""

from __future__ import annotations


class PenstockError(Exception):
    """Penstock could not do this."""

    code = "error"
    status = 500

    def __init__(self, what: str = "", *, code: str = "", where: str = "", hint: str = "") -> None:
        self.what = what or (type(self).__doc__ or "").strip()
        self.code = code or type(self).code
        self.where = where
        self.hint = hint
        super().__init__(self.what)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        mend = f" {self.hint}" if self.hint else ""
        return f"{place}{self.what}{mend} [{self.code}]"


class Refused(PenstockError):
    """The request cannot be taken as it is; mend it and send it again."""

    code = "refused"
    status = 422


class Poison(Refused):
    """The record's value is not what its topic promises; whoever folds it buries it and goes on.

    `id`, `key` and `sample` are what may be told of it: nothing in them is personal.
    """

    code = "poison"

    def __init__(self, what: str = "", *, id: str = "", key: str = "", sample: str = "", **more: str) -> None:
        super().__init__(what, **more)
        self.id, self.key, self.sample = id, key, sample


class DefinitionError(Refused):
    """The pipeline file says something that cannot be built."""

    code = "definition"


class NotFound(Refused):
    """There is nothing under this name."""

    code = "not_found"
    status = 404


class Unavailable(PenstockError):
    """This cannot be answered now; try again later."""

    code = "unavailable"
    status = 503


class Fenced(Unavailable):
    """Another owner has taken this stage over; this one must stop."""

    code = "fenced"


class Broken(PenstockError):
    """An invariant of the log does not hold; nothing may be built on it until it is mended."""

    code = "broken"
