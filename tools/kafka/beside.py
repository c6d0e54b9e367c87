"""Run a command beside a fresh Kafka broker on loopback: BROKER in its words becomes the address of a log there.

python tools/kafka/beside.py penstock demo --exit --log BROKER
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.kafka.broker import Cluster, Missing


def main(command: list[str]) -> int:
    """Start the broker, run the command, end the broker; the command's status."""
    with tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        try:
            cluster = Cluster(Path(folder)).start()
        except Missing as error:
            print(f"No broker: {error}.", file=sys.stderr)
            return 1
        try:
            address = f"kafka://{cluster.address}"
            return subprocess.run(
                [word.replace("BROKER", address) for word in command], check=False
            ).returncode
        finally:
            cluster.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
