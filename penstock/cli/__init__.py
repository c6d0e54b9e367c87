"""cli: the verbs. Each is a function of its arguments; `--json` where a machine reads."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

Verb = Callable[[argparse.Namespace], int]


def _parser() -> argparse.ArgumentParser:
    from penstock import __version__
    from penstock.cli import arguments

    parser = argparse.ArgumentParser(
        prog="penstock",
        description="Raw events in, judged predictions out: one file declares it, one log remembers it.",
        epilog="Each command has its own help with an example: penstock up --help",
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    arguments.declare(verbs)
    return parser


def function(name: str) -> Verb:
    """What a verb does, by its module's and its own name: the modules of the others are not loaded."""
    module, _, verb = name.rpartition(".")
    found: Verb = getattr(importlib.import_module(f"penstock.cli.{module}"), verb)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0 done, 1 a check failed, 2 refused, 3 not available now."""
    from penstock.record.errors import PenstockError, Refused

    given = _parser().parse_args(argv)
    try:
        return function(given.run)(given)
    except Refused as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 2
    except PenstockError as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 3
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        return 130
