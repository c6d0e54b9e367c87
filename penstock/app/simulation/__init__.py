"""app: the whole pipeline on one seeded scheduler with a virtual clock: faults first, then healed."""
