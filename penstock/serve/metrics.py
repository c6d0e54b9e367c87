"""serve: how things stand, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.serve.times import BOUNDS, NAME


def exposition(status: dict[str, Any]) -> str:
    """How things stand, in Prometheus' text format."""
    lines = [
        "# TYPE penstock_log_end counter",
        f"penstock_log_end {status['end']}",
        "# TYPE penstock_stage_lag gauge",
    ]
    lines += [f'penstock_stage_lag{{stage="{name}"}} {one["lag"]}' for name, one in status["stages"].items()]
    lines.append("# TYPE penstock_records counter")
    lines += [f'penstock_records{{topic="{topic}"}} {n}' for topic, n in status["topics"].items()]
    lines.append("# TYPE penstock_alerts gauge")
    lines += [
        f'penstock_alerts{{model="{name}"}} {len(one["alerts"])}' for name, one in status["models"].items()
    ]
    lines.append("# TYPE penstock_training_failed gauge")
    lines += [
        f'penstock_training_failed{{model="{name}"}} {int(bool(one.get("failed")))}'
        for name, one in status["models"].items()
    ]
    held = status.get("held", "")
    lines += ["# TYPE penstock_held gauge", f'penstock_held{{code="{held}"}} {int(bool(held))}']
    lines += _counted("penstock", status.get("counters", ()))
    since = status.get("since_start", ())
    lines += _counted("penstock_since_start", [one for one in since if not one["name"].startswith(NAME)])
    lines += _timed([one for one in since if one["name"].startswith(NAME)])
    return "\n".join(lines) + "\n"


def _counted(prefix: str, counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Counts in Prometheus' text format; a number under one name goes together."""
    lines: list[str] = []
    for name in dict.fromkeys(one["name"] for one in counts):
        gauge = name == "labels_parked" or name.startswith("state_")
        lines.append(f"# TYPE {prefix}_{name} {'gauge' if gauge else 'counter'}")
        for one in counts:
            if one["name"] == name:
                labels = ",".join(f'{key}="{_quoted(value)}"' for key, value in one["labels"].items())
                lines.append(f"{prefix}_{name}{{{labels}}} {one['value']}")
    return lines


def _timed(counts: Sequence[Mapping[str, Any]]) -> list[str]:
    """The histogram of calls: buckets hold all that took at most so long."""
    found: dict[tuple[tuple[str, str], ...], dict[str, int]] = {}
    for one in counts:
        labels = {key: value for key, value in one["labels"].items() if key != "le"}
        part = one["labels"].get("le") or one["name"].removeprefix(NAME)
        found.setdefault(tuple(sorted(labels.items())), {})[part] = one["value"]
    lines = [f"# TYPE {NAME} histogram"] if found else []
    for pairs, values in sorted(found.items()):
        told, below = ",".join(f'{key}="{_quoted(value)}"' for key, value in pairs), 0
        for bound in BOUNDS:
            below += values.get(bound, 0)
            lines.append(f'{NAME}_bucket{{{told},le="{bound}"}} {below}')
        lines.append(f"{NAME}_sum{{{told}}} {values.get('_sum_us', 0) / 1e6}")
        lines.append(f"{NAME}_count{{{told}}} {values.get('_count', 0)}")
    return lines


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
