"""faults: the contract, its doors and its seats on an older Kafka, by each way that leads to a log there."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path

from penstock.record.errors import Fenced
from tests.faults.finding import Finding, Plan
from tools.kafka.broker import jars
from tools.kafka.secure import openssl

TREE = Path(__file__).resolve().parents[2]
VERSION = "3.9.1"
LAWS = ["tests/laws/test_log_laws.py", "-k", "kafka"]
SUITES: dict[str, tuple[str, Sequence[str]]] = {
    "laws": ("", LAWS),
    "laws, by password and TLS": ("sasl", LAWS),
    "laws, by certificate": ("tls", LAWS),
    "doors and seats": ("", ["tests/wire/test_kafka_doors.py", "tests/crash/test_run.py", "-k", "kafka"]),
}
"""Of each: the door that the contract takes, and the tests."""
WRONG = ("failure", "error", "skipped")
LONGEST_S = 600.0


def findings(plan: Plan) -> Iterator[Finding]:
    """Each suite as a finding: a test that fails, or is skipped, is a difference. Raises Missing without a
    broker or openssl."""
    jars(VERSION)
    openssl()
    missed = missed_fence("kafka")
    plan.note(f"contract, planted fence: {f'NOT CAUGHT: {missed}' if missed else 'caught'}")
    bug = "fence", int(not missed), 1
    for name, (door, words) in SUITES.items():
        began = time.monotonic()
        tests, wrong, told = _run(door, words)
        if wrong:
            plan.note(f"contract, {name}: {told}")
        yield Finding(f"Kafka {VERSION}: {name}", tests, wrong, *bug, time.monotonic() - began, told)
        bug = "", 0, 0


def missed_fence(engine: str) -> str:
    """Hold an engine without its fence against the law about it: "" when that law says what is wrong, else what came
    of it instead."""
    words = ["-p", "tests.faults.unfenced", LAWS[0], "-k", f"{engine} and older_owner_is_fenced"]
    tests, wrong, told = _run("", words)
    seen = (tests, wrong) == (1, 1) and told.startswith("Failed: DID NOT RAISE") and Fenced.__name__ in told
    return "" if seen else f"{tests} tests, {wrong} wrong: {told}"


def _run(door: str, words: Sequence[str]) -> tuple[int, int, str]:
    """Run tests: how many there were, how many did not pass, and why, or what pytest says last."""
    chosen = {**os.environ, "PENSTOCK_KAFKA": VERSION, "PENSTOCK_KAFKA_DOOR": door}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *words]
        done = subprocess.run(
            command, cwd=TREE, env=chosen, capture_output=True, text=True, check=False, timeout=LONGEST_S
        )
        last = "" if done.returncode == 0 else ["nothing", *(done.stdout + done.stderr).splitlines()][-1]
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    why = [one.get("message", "") for case in cases for one in case if one.tag in WRONG]
    return len(cases), max(len(why), int(done.returncode != 0)), "; ".join(dict.fromkeys(why)) or last
