"""serve: the doors: HTTP codecs and identity. A facade over the log, never a second path around it."""
