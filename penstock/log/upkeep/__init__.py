"""log: upkeep of the engine of one machine, off the hot path: history sealed, room given back, health, repair.

The engine reads the segments that are made here, and needs none of the rest to append, read and commit. One
process of a home at a time is at it, under a file lock; only who holds it deletes. Whatever takes several
steps may end after each of them: the next turn goes on from what it finds.
"""
