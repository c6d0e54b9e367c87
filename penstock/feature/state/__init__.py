"""feature: what is held of events, and how values are read from it. The fold owns it."""
