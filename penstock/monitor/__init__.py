"""monitor: predictions and outcomes -> profiles and alerts, folded over time that comes as ticks."""
