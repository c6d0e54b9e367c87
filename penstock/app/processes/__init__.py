"""app: stages in several processes: who runs which share, whose turn it is."""
