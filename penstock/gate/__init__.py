"""gate: two sets of answers on the same rows -> ship, block or inconclusive. Pure arithmetic."""

from penstock.gate.spec import Gate, better, not_worse

__all__ = ["Gate", "better", "not_worse"]
