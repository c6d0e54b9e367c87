"""client: rows read from a table of PostgreSQL, and answers that become rows of one. It needs the extra `postgres`.

Where the database is, and who asks, comes from the address and from what libpq knows beside it (PGHOST, PGUSER,
PGSERVICE, PGPASSFILE...); a password never from the address, which everybody on the machine can see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import msgspec

from penstock.client.calls import Answer
from penstock.client.kept import COLUMNS, Kept, Told
from penstock.record.errors import NotFound, Refused, Unavailable

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

SCHEMES = ("postgresql://", "postgres://")
TYPES = ("double precision", "boolean", "bigint", "text", "text")
"""Of the columns of an answer."""
IDS = {"str": "text", "int": "bigint"}
"""The type of an id's column, where the table of results is made here."""
NAME_BYTES = 57
"""A name with "_parts" behind it is not cut off."""
LOCK_S = 5
"""So long a run waits for another one of the same table: one that was killed may still be about to go."""


class Table(msgspec.Struct, frozen=True):
    """A table or a view: in which database, by which name, with its schema's before it or not."""

    dsn: str
    name: tuple[str, ...]


def table(address: str) -> Table:
    """postgresql://[USER@][HOST[:PORT]][/DATABASE]?table=[SCHEMA.]NAME, as a table; raises Refused."""
    found = urlsplit(address)
    query = parse_qsl(found.query)
    if found.password is not None or any("password" in name for name, _ in query):
        raise Refused(
            "A password in an address can be seen by everybody on the machine.", code="secret",
            hint="Leave it out, and set PGPASSWORD, PGPASSFILE or PGSERVICE.",
        )  # fmt: skip
    names = [tuple(value.split(".")) for name, value in query if name == "table"]
    if (
        len(names) != 1
        or len(names[0]) > 2
        or not all(0 < len(one.encode()) <= NAME_BYTES for one in names[0])
    ):
        raise Refused(
            f"Name one table, in at most {NAME_BYTES} bytes: postgresql://HOST/DATABASE?table=NAME.",
            code="table",
        )
    rest = urlencode([one for one in query if one[0] != "table"], quote_via=quote)
    return Table(address.partition("?")[0] + (f"?{rest}" if rest else ""), names[0])


@contextmanager
def _told() -> Iterator[None]:
    """Errors of the database as the house's, without its words: they may quote a row."""
    import psycopg

    try:
        yield
    except psycopg.errors.UndefinedTable:
        raise NotFound("The database has no such table.", code="no_table") from None
    except psycopg.errors.UndefinedColumn:
        raise Refused("The table has no column of the id's name.", code="unknown_column") from None
    except psycopg.errors.LockNotAvailable:
        raise Unavailable("Another run writes to this table.", code="locked") from None
    except psycopg.Error as error:
        kind = Unavailable if isinstance(error, psycopg.OperationalError) else Refused
        said = f"The database says {type(error).__name__}" + (
            f" ({error.sqlstate})." if error.sqlstate else "."
        )
        raise kind(said, code="database") from None


def _connected(at: Table) -> Connection[tuple[Any, ...]]:
    try:
        import psycopg
    except ImportError:
        raise Refused(
            "Tables of PostgreSQL need psycopg.", code="no_driver", hint="Install the extra `postgres`."
        ) from None
    try:
        return psycopg.connect(at.dsn, autocommit=True, application_name="penstock")
    except psycopg.OperationalError:
        raise Unavailable(
            "The database is not there, or does not let us in.",
            code="database",
            hint="Does psql, with the same address?",
        ) from None
    except psycopg.Error:
        raise Refused("This is no address of a database.", code="database") from None


class Rows:
    """The rows of a table in the order of their ids, all of one moment, whatever is written meanwhile."""

    def __init__(self, at: Table, id: str) -> None:
        self._db = _connected(at)
        from psycopg import IsolationLevel, sql
        from psycopg.types.numeric import FloatLoader
        from psycopg.types.string import TextLoader

        self._db.autocommit = False
        self._db.isolation_level, self._db.read_only = IsolationLevel.REPEATABLE_READ, True
        self._db.adapters.register_loader("numeric", FloatLoader)
        self._db.adapters.register_loader("uuid", TextLoader)
        whole = sql.SQL("select * from {} order by {}")
        self._asked = whole.format(sql.Identifier(*at.name), sql.Identifier(id))

    def batches(self, size: int) -> Iterator[list[dict[str, Any]]]:
        """All of them, so many at a time."""
        from psycopg.rows import dict_row

        with _told(), self._db.cursor("penstock_rows", row_factory=dict_row) as cursor:
            cursor.execute(self._asked)
            while some := cursor.fetchmany(size):
                yield some

    def close(self) -> None:
        """Let go of the moment."""
        self._db.close()


class Results:
    """Answers, in a table of parts beside the one of results, until they become rows of it. There each id has one
    row: the answer that stands there stays."""

    def __init__(self, at: Table, id: str) -> None:
        self._db = _connected(at)
        from psycopg import sql

        parts = (*at.name[:-1], f"{at.name[-1]}_parts")
        self.place = ".".join(parts)
        self._id, self._type = id, ""
        self._names = {
            "out": sql.Identifier(*at.name),
            "parts": sql.Identifier(*parts),
            "id": sql.Identifier(id),
            "columns": sql.SQL(", ").join(map(sql.Identifier, (id, *COLUMNS))),
        }

    def _sql(self, text: str, **more: Any) -> Composed:
        from psycopg import sql

        return sql.SQL(text).format(**self._names, **more)

    def begin(self, kept: Kept) -> int:
        """How many batches of these very rows are there already; others' are taken away. Raises Refused where the
        table of results has other columns, or no key."""
        from psycopg import sql

        note = msgspec.json.encode(kept).decode()
        with _told():
            self._db.execute(f"set lock_timeout = '{round(LOCK_S * 1000)}ms'")
            self._db.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [f"penstock {self.place}"])
            with self._db.transaction():
                self._type = self._type_of_ids(kept)
                parts = self._names["parts"].as_string(self._db)
                found = self._one(
                    "select to_regclass(%s)::text, obj_description(to_regclass(%s))", parts, parts
                )
                if found[1] == note:
                    return int(self._one(self._sql("select coalesce(max(part) + 1, 0) from {parts}"))[0])
                if found[0] and not _is_kept(found[1]):
                    raise Refused(
                        "There is a table of that name that is not ours.", code="table", where=self.place
                    )
                self._db.execute(self._sql("drop table if exists {parts}"))
                self._make("parts", "part bigint not null, ")
                self._db.execute(self._sql("comment on table {parts} is {note}", note=sql.Literal(note)))
        return 0

    def keep(self, number: int, id: str, ids: Sequence[Any], answers: Sequence[Answer]) -> None:
        """A batch is answered."""
        rows = self._sql("copy {parts} (part, {columns}) from stdin")
        with _told(), self._db.transaction(), self._db.cursor().copy(rows) as copy:
            for one, answer in zip(ids, answers, strict=True):
                copy.write_row((number, one, *(getattr(answer, name) for name in COLUMNS)))

    def told(self) -> Told:
        """What is kept."""
        of_all = "select count(*), count(*) - count(score), min(score), avg(score), max(score) from {parts}"
        return Told(*self._one(self._sql(of_all)))

    def finish(self) -> int:
        """They become rows of the results; how many ids had one there already."""
        with _told(), self._db.transaction():
            self._make("out")
            new = self._db.execute(self._sql(
                "insert into {out} ({columns}) select {columns} from {parts} on conflict ({id}) do nothing"
            )).rowcount  # fmt: skip
            (rows,) = self._one(self._sql("select count(*) from {parts}"))
            (there,) = self._one(self._sql("select count(*) from {parts} join {out} using ({id})"))
            if there != rows:
                raise Refused("Not every answer has become a row.", code="changed", hint="Run it again.")
            self._db.execute(self._sql("drop table {parts}"))
        return int(rows - new)

    def _one(self, asked: Any, *values: str) -> tuple[Any, ...]:
        with _told():
            found = self._db.execute(asked, values).fetchone()
        assert found is not None
        return found

    def _make(self, name: str, before: str = "") -> None:
        from psycopg import sql

        columns = [
            sql.SQL("{} {}").format(sql.Identifier(one), sql.SQL(kind))
            for one, kind in zip(COLUMNS, TYPES, strict=True)
        ]
        self._db.execute(sql.SQL("create table if not exists {} ({}{} {} primary key, {})").format(
            self._names[name], sql.SQL(before), self._names["id"], sql.SQL(self._type), sql.SQL(", ").join(columns),
        ))  # fmt: skip

    def _type_of_ids(self, kept: Kept) -> str:
        """The type of the ids' column: that of the results' table, where it is there and can take the answers."""
        out = self._names["out"].as_string(self._db)
        columns = dict(self._db.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped", [out],
        ).fetchall())  # fmt: skip
        if not columns:
            if kept.ids not in IDS:
                raise Refused("An id in a table is a text or a whole number.", code="id")
            return IDS[kept.ids]
        for name, type_ in zip((self._id, *COLUMNS), (columns.get(self._id), *TYPES), strict=True):
            if type_ is None or columns.get(name) != type_:
                raise Refused(
                    f"The table of results needs it, {type_ or 'and unique'}.", code="columns", where=name
                )
        keys = self._one(
            "select count(*) from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]"
            " where i.indrelid = to_regclass(%s) and i.indisunique and i.indnkeyatts = 1 and i.indpred is null"
            " and i.indimmediate and a.attname = %s", out, self._id,
        )  # fmt: skip
        if not keys[0]:
            raise Refused(
                "The table of results needs a primary key or a unique index.", code="no_key", where=self._id
            )
        return str(columns[self._id])

    def close(self) -> None:
        """End the connection, and with it the lock."""
        self._db.close()


def _is_kept(note: str | None) -> bool:
    try:
        msgspec.json.decode(note or "", type=Kept)
    except msgspec.MsgspecError:
        return False
    return True
