"""log: the engine of several machines: a journal on Kafka, and in each home a mirror that follows it.

`place`: where a log is, and what its connection needs. `link`: asking brokers, making topics. `wire`: the
forms of what lies on Kafka. `publish`, `fetch`: messages out and in. `follow`: the journal read in order.
`engine`: the log. `snapshot`: a mirror as blobs, for a home that starts late.
"""

from penstock.log.kafka.engine import KafkaLog
from penstock.log.kafka.place import PARTITIONS, Place, place
from penstock.log.kafka.snapshot import restore, save

__all__ = ["PARTITIONS", "KafkaLog", "Place", "place", "restore", "save"]
