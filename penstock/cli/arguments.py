"""cli: what each verb takes, with an example in its help."""

from __future__ import annotations

import argparse
from typing import Any


def declare(verbs: Any) -> None:
    """Declare every verb."""
    _running(verbs)
    _asking(verbs)
    _keeping(verbs)
    _burying(verbs)
    _looking(verbs)
    _deciding(verbs)
    _proving(verbs)
    _loading(verbs)


def _verb(verbs: Any, name: str, function: str, what: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=what, description=what, epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=function)
    return parser


def _homed(parser: argparse.ArgumentParser, *, json: bool = True) -> argparse.ArgumentParser:
    parser.add_argument(
        "--home", default=".penstock", metavar="DIR", help="the folder of the log (default: .penstock)"
    )
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON for a machine to read")
    return parser


def _logged(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log",
        default="",
        metavar="URL",
        help="kafka://HOST:PORT[/PREFIX]; the home remembers it (default: a log in the home)",
    )
    parser.add_argument(
        "--log-settings",
        default="",
        metavar="FILE",
        help="KEY=VALUE lines for the connection: security.protocol, ssl.ca.location, sasl.password...",
    )


def _serving(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="any but loopback needs --key-file")
    parser.add_argument("--port", type=int, default=8411, help="0 takes a free one")
    parser.add_argument("--key-file", default="", metavar="FILE", help="keys made with `penstock key`")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a host name to answer under"
    )


def _bounded(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-lag", type=int, default=100_000, metavar="N",
        help="records that the slowest stage may be behind before producers are held back (0: any)",
    )  # fmt: skip
    parser.add_argument(
        "--min-free", default="1GB", metavar="SIZE", help="what must stay free on the log's disk (0: nothing)"
    )
    parser.add_argument(
        "--max-log", default="0", metavar="SIZE", help="what the log may take on its disk (0: any)"
    )


def _running(verbs: Any) -> None:
    demo = _verb(
        verbs, "demo", "run.demo", "Play a shop through the whole loop, and show it.", "penstock demo --exit"
    )
    demo.add_argument("--exit", action="store_true", help="end when the story is told, instead of serving on")
    demo.add_argument(
        "--home", default="", metavar="DIR", help="keep the log here (default: a temporary folder)"
    )
    demo.add_argument("--seed", type=int, default=7)
    demo.add_argument("--port", type=int, default=8411)
    _logged(demo)
    up = _verb(
        verbs, "up", "run.up", "Bring a pipeline file up and serve it.", "penstock up pipeline.py --port 8411"
    )
    up.add_argument("file", metavar="FILE")
    _homed(up, json=False)
    _logged(up)
    _serving(up)
    _bounded(up)
    up.add_argument(
        "--workers", type=int, default=0, metavar="N",
        help="processes that serve requests, all on the one port (default: this process does)",
    )  # fmt: skip
    up.add_argument(
        "--models-memory", default="4GB", metavar="SIZE",
        help="what the models in memory may take; beyond it the one asked longest ago is unloaded until it is asked",
    )  # fmt: skip
    up.add_argument(
        "--grpc-port", type=int, default=None, metavar="N",
        help="serve the Open Inference Protocol by gRPC, too; 0 takes a free one (default: not)",
    )  # fmt: skip
    up.add_argument(
        "--sync", action="store_true", help="an answer leaves once it is safe against power loss, too"
    )
    up.add_argument("--webhook", default="", metavar="URL", help="send alerts there, as JSON")
    some = _verb(
        verbs, "run", "run.run_stages", "Run stages of a pipeline file in a process of their own, beside others.",
        "penstock run predict --file pipeline.py --log kafka://broker:9092 --blobs /mnt/blobs --shares 4",
    )  # fmt: skip
    some.add_argument(
        "stages", nargs="+", metavar="STAGE",
        help="predict, join, derive, outcome, monitor, train, gate, release, consistency, tick, "
        "predict.MODEL..., or all",
    )  # fmt: skip
    some.add_argument("--file", required=True, metavar="FILE")
    _homed(some, json=False)
    _logged(some)
    some.add_argument("--blobs", default="", metavar="DIR", help="a folder that all homes of the log share")
    some.add_argument(
        "--shares", type=int, default=0, metavar="N", help="divide answering (default: as it is)"
    )
    some.add_argument("--name", default="", help="on Kafka, of a process that keeps its seats over a restart")
    some.add_argument("--in-turn", action="store_true", help="for replays: stages move in one fixed order")
    key = _verb(
        verbs,
        "key",
        "run.key",
        "Make a key; the file keeps only its digest.",
        "penstock key alice --key-file keys",
    )
    key.add_argument("name", metavar="NAME")
    key.add_argument("--key-file", required=True, metavar="FILE")
    append = _verb(
        verbs, "append", "run.append", "Append events from a file of JSON lines, JSON or CSV (- is standard input).",
        "penstock append payment payments.ndjson",
    )  # fmt: skip
    append.add_argument("topic", metavar="TOPIC")
    append.add_argument("path", metavar="PATH")
    append.add_argument(
        "--pressure", choices=("wait", "refuse"), default="wait",
        help="what to do at a bound: wait up to a minute for room, or end at once with status 3",
    )  # fmt: skip
    _bounded(append)
    _homed(append)
    check = _verb(
        verbs, "check", "run.check", "Run a whole pipeline on a sliver of data, and say what would break.",
        "penstock check pipeline.py --data samples/",
    )  # fmt: skip
    check.add_argument("file", metavar="FILE")
    check.add_argument(
        "--data", default="", metavar="DIR", help="samples as TOPIC.ndjson (default: made up from the types)"
    )
    check.add_argument("--json", action="store_true", help="print JSON for a machine to read")


def _asking(verbs: Any) -> None:
    drawn = _verb(
        verbs, "graph", "graph.graph", "Show a file's topics, features and stages: who reads and who writes what.",
        "penstock graph pipeline.py --svg pipeline.svg",
    )  # fmt: skip
    drawn.add_argument("file", metavar="FILE")
    drawn.add_argument("--model", default="", metavar="MODEL")
    drawn.add_argument("--svg", default="", metavar="FILE.svg", help="write the picture there, too")
    drawn.add_argument("--json", action="store_true", help="print JSON for a machine to read")
    _homed(
        _verb(
            verbs,
            "status",
            "ask.status",
            "How things stand: log, stages, models, alerts.",
            "penstock status --json",
        )
    )
    _homed(_verb(verbs, "models", "ask.models", "Every version and what became of it.", "penstock models"))
    doctor = _homed(_verb(
        verbs, "doctor", "ask.doctor", "Look at the log's health, and read all of it to see that it is whole.",
        "penstock doctor --quick",
    ))  # fmt: skip
    doctor.add_argument("--quick", action="store_true", help="sizes and counts only; read no records")
    upkeep = _homed(_verb(
        verbs, "upkeep", "ask.upkeep", "Drop what its keep= lets go, seal what is old, give back the room.",
        "penstock upkeep --dry-run",
    ))  # fmt: skip
    upkeep.add_argument(
        "--dry-run", action="store_true", help="say what retention would take; change nothing"
    )
    mended = _homed(_verb(
        verbs, "repair", "repair.repair", "Say what a repair of a damaged log would do; do it when asked to.",
        "penstock repair --yes",
    ))  # fmt: skip
    mended.add_argument("--yes", action="store_true", help="do it, if nothing is lost by it")
    mended.add_argument(
        "--accept-loss", action="store_true", help="do it, and let go of what cannot be read any more"
    )
    report = _homed(_verb(
        verbs, "report", "ask.report", "Write the gate's report of a version as one HTML page.",
        "penstock report fraud@v3 --out report.html",
    ))  # fmt: skip
    report.add_argument("version", metavar="MODEL@vN")
    report.add_argument("--out", default="", metavar="FILE")
    trace = _homed(
        _verb(
            verbs,
            "trace",
            "ask.trace",
            "Tell everything about one prediction.",
            "penstock trace predict.fraud:payment:1234:0",
        )
    )
    trace.add_argument("prediction", metavar="PREDICTION", help="a prediction's id, or a request's")
    _answering(verbs)


def _answering(verbs: Any) -> None:
    parser = _homed(_verb(
        verbs, "answers", "answers.answers", "Print a model's answers as lines of JSON, in the order of the log.",
        "penstock answers fraud --after 1234 --follow",
    ), json=False)  # fmt: skip
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument(
        "--after", type=int, default=0, metavar="POSITION", help="those behind this answer's place"
    )
    parser.add_argument("--most", type=int, default=0, metavar="N", help="end after so many (default: all)")
    parser.add_argument("--follow", action="store_true", help="wait for more, instead of ending")
    parser.add_argument("--request", default="", metavar="ID", help="the answer to this request only")


def _keeping(verbs: Any) -> None:
    parser = _homed(_verb(
        verbs, "backup", "keep.backup",
        "Copy a home, running or not: log, segments and blobs of one moment, read through.",
        "penstock backup --out /mnt/backups/monday",
    ))  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="a folder that is not there yet")


def _burying(verbs: Any) -> None:
    parser = _homed(_verb(
        verbs, "dead", "dead.dead", "List the records that stages could not take, or bring them back.",
        "penstock dead --again payment@1234",
    ))  # fmt: skip
    parser.add_argument(
        "--again", nargs="*", metavar="TOPIC@POSITION",
        help="fold these after all (none named: every one), once the file is mended and up",
    )  # fmt: skip
    parser.add_argument("--who", default="", help="in whose name (default: the user's)")


def _looking(verbs: Any) -> None:
    features = _verb(
        verbs, "features", "", "What a file's features are and say, and what differs between two sets.",
        "penstock features list pipeline.py",
    )  # fmt: skip
    parts = features.add_subparsers(dest="part", metavar="WHAT", required=True)
    _listing(parts)
    _getting(parts)
    _suggesting(parts)
    gone = _homed(_verb(
        verbs, "retract", "lookup.retract", "Take events back by their ids: from here on no feature sees them.",
        "penstock retract pipeline.py payment 1234 1235",
    ))  # fmt: skip
    gone.add_argument("file", metavar="FILE")
    gone.add_argument("topic", metavar="TOPIC")
    gone.add_argument("ids", metavar="ID", nargs="+")


def _listing(parts: Any) -> None:
    one = "a pipeline file, a home, or the first digits of a feature set's digest in --home"
    told = _homed(_verb(
        parts, "list", "features.listed",
        "A file's features with their definitions.", "penstock features list pipeline.py",
    ))  # fmt: skip
    told.add_argument("file", metavar="FILE", help=one)
    told.add_argument("--model", default="", metavar="MODEL")
    compared = _homed(_verb(
        parts, "diff", "features.diff", "What differs between two feature sets, and whether a model would notice.",
        "penstock features diff pipeline.py new.py",
    ))  # fmt: skip
    compared.add_argument("a", metavar="A", help=one)
    compared.add_argument("b", metavar="B")
    compared.add_argument("--model", default="", metavar="MODEL")


def _suggesting(parts: Any) -> None:
    parser = _verb(
        parts, "suggest", "suggest.suggested", "Propose features for an entity, as definitions to paste into the file.",
        "penstock features suggest pipeline.py --entity tailnum --most 20",
    )  # fmt: skip
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--entity", required=True, metavar="COLUMN", help="a column of the request")
    parser.add_argument("--model", default="", metavar="MODEL", help="default: the only one")
    parser.add_argument(
        "--depth", type=int, choices=(1, 2), default=2, help="2: through other entities, too (default)"
    )
    parser.add_argument("--most", type=int, default=40, metavar="N", help="definitions (default: 40)")
    parser.add_argument("--json", action="store_true", help="print JSON for a machine to read")


def _getting(parts: Any) -> None:
    parser = _homed(_verb(
        parts, "get", "lookup.get", "The values of a model's features for entities, now or as of then.",
        "penstock features get pipeline.py --model fraud --entity card=c1 --entity card=c2 --t 2026-05-01T12:00Z",
    ))  # fmt: skip
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--model", default="", metavar="MODEL", help="or how a digest begins (default: the only one)"
    )
    parser.add_argument(
        "--entity", action="append", nargs="+", required=True, metavar="COLUMN=VALUE",
        help="the request's columns that tell whose; a value alone where one column is needed",
    )  # fmt: skip
    parser.add_argument(
        "--feature", action="append", default=[], metavar="NAME", help="these only (default: all of them)"
    )
    parser.add_argument(
        "--t", default="", metavar="TIME", help="UTC time or milliseconds (default: the newest tick)"
    )
    parser.add_argument("--o", type=int, default=None, metavar="POSITION", help="as the log stood there")


def _deciding(verbs: Any) -> None:
    train = _homed(
        _verb(verbs, "train", "ask.train", "Ask for a training now.", "penstock train fraud --set C=0.5")
    )
    train.add_argument("model", metavar="MODEL")
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter for this training"
    )
    promote = _homed(_verb(
        verbs, "promote", "ask.promote", "Make a version champion, whatever the rules say.",
        'penstock promote fraud@v3 --reason "agreed with risk"',
    ))  # fmt: skip
    promote.add_argument("version", metavar="MODEL@vN")
    rollback = _homed(_verb(
        verbs, "rollback", "ask.rollback", "Take the newest step back: candidate out, or the champion before again.",
        'penstock rollback fraud --reason "wrong prices"',
    ))  # fmt: skip
    rollback.add_argument("model", metavar="MODEL")
    for parser in (train, promote, rollback):
        parser.add_argument("--reason", default="", metavar="TEXT")
        parser.add_argument(
            "--who", default="", metavar="NAME", help="default: the name you are logged in under"
        )


def _proving(verbs: Any) -> None:
    verify = _homed(
        _verb(
            verbs,
            "verify",
            "ask.verify",
            "Make every prediction again from the log, and compare bit for bit.",
            "penstock verify",
        )
    )
    verify.add_argument("--model", default="", metavar="MODEL")
    compared = _homed(_verb(
        verbs, "consistency", "consistency.consistency",
        "Tell what of the served features was folded again, and what was unequal.",
        "penstock consistency .penstock --model fraud",
    ))  # fmt: skip
    compared.add_argument(
        "where", metavar="FILE|HOME", nargs="?", default=".penstock",
        help="a home, or a pipeline file with --home (default: .penstock)",
    )  # fmt: skip
    compared.add_argument("--model", default="", metavar="MODEL")
    rebuild = _homed(_verb(
        verbs, "rebuild", "ask.rebuild", "Train a version again from the log; say whether its digest is the same.",
        "penstock rebuild fraud@v3",
    ))  # fmt: skip
    rebuild.add_argument("version", metavar="MODEL@vN")
    rows = _homed(_verb(
        verbs, "dataset", "dataset.dataset",
        "Write a model's training set: requests as they were seen, with their labels.",
        "penstock dataset pipeline.py --model fraud --out rows.parquet --from 2026-01-01",
    ))  # fmt: skip
    rows.add_argument("file", metavar="FILE")
    rows.add_argument("--model", default="", metavar="MODEL", help="default: the file's only one")
    rows.add_argument("--out", required=True, metavar="PATH", help="a name that ends in .parquet or .arrow")
    rows.add_argument("--from", dest="since", default="", metavar="TIME", help="no request before it, in UTC")
    simulated = _verb(
        verbs, "simulate", "simulate.simulate",
        "Play a pipeline on a virtual clock with faults at random, and hold it against its laws.",
        "penstock simulate pipeline.py --seed 7 --trace",
    )  # fmt: skip
    simulated.add_argument("file", metavar="FILE", nargs="?", default="pipeline.py")
    simulated.add_argument("--seed", type=int, default=None, help="the first schedule (default: 1)")
    simulated.add_argument(
        "--schedules", type=int, default=0, metavar="N", help="how many (default: 1 with --seed, else 1000)"
    )
    simulated.add_argument(
        "--data", default="", metavar="DIR", help="samples as TOPIC.ndjson (default: made up from the types)"
    )
    simulated.add_argument(
        "--fit",
        choices=("quick", "own"),
        default="quick",
        help="quick: a small model instead of the file's fit",
    )
    simulated.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: 2)")
    simulated.add_argument("--trace", action="store_true", help="tell every step, on one process")
    simulated.add_argument("--json", action="store_true", help="print JSON for a machine to read")


def _loading(verbs: Any) -> None:
    batch = _verb(
        verbs, "score", "score.score", "Score the rows of a file or a table by a running server.",
        "penstock score fraud --id payment_id --in payments.parquet --out scores.parquet",
    )  # fmt: skip
    batch.add_argument("model", metavar="MODEL")
    batch.add_argument("--url", default="http://127.0.0.1:8411")
    batch.add_argument(
        "--in",
        dest="rows",
        required=True,
        metavar="FILE|TABLE",
        help="the request's columns: .parquet, .csv, .ndjson, or postgresql://HOST/DATABASE?table=NAME",
    )
    batch.add_argument("--out", required=True, metavar="FILE|TABLE", help="the answers: the same kinds")
    batch.add_argument(
        "--id", required=True, metavar="COLUMN", help="the request's id: one asked again is the same"
    )
    batch.add_argument(
        "--batch", type=int, default=1000, metavar="N", help="rows in one call (default: 1000)"
    )
    batch.add_argument(
        "--most-failed", type=float, default=0.0, metavar="SHARE", help="of rows without a score (default: 0)"
    )
    batch.add_argument("--key", default="", metavar="FILE", help="a file with the key to send")
    batch.add_argument("--json", action="store_true", help="print JSON for a machine to read")
    parser = _verb(
        verbs, "load", "load.load",
        "Send requests to a server at a steady rate, check each answer, and say how it took it.",
        "penstock load http://127.0.0.1:8411 --model fraud --rate 500 --for 30s",
    )  # fmt: skip
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--model", required=True, metavar="MODEL")
    parser.add_argument(
        "--rate", type=float, default=100.0, metavar="N", help="requests a second, due whatever becomes of the others"
    )  # fmt: skip
    parser.add_argument(
        "--closed", action="store_true", help="no rate: each connection sends when it has its answer"
    )
    parser.add_argument(
        "--for", dest="seconds", default="10s", metavar="SPAN", help="how long (default: 10s)"
    )
    parser.add_argument("--connections", type=int, default=32, metavar="N")
    parser.add_argument(
        "--timeout", default="10s", metavar="SPAN", help="a later answer is none (default: 10s)"
    )
    parser.add_argument(
        "--rows", default="", metavar="FILE", help="requests as JSON lines (default: made up from the model's metadata)"
    )  # fmt: skip
    parser.add_argument(
        "--expect", default="", metavar="FIELD", help="the field of --rows with the score that is right; not sent"
    )  # fmt: skip
    parser.add_argument(
        "--tolerance", type=float, default=0.0, metavar="X", help="how far a score may be off (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=7, help="of what is made up")
    parser.add_argument("--key", default="", metavar="FILE", help="a file with the key to send")
    parser.add_argument("--json", action="store_true", help="print JSON for a machine to read")
