"""record: every record type, positions, ids, codec, errors. No I/O, no clock, no other room."""
