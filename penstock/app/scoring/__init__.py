"""app: models that are scored in a process of their own: whatever one of them does, nobody else waits or falls."""
