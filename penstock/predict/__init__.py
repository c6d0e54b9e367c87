"""predict: request + features + routed version -> prediction. Live, shadow, canary, batch: all score here."""
