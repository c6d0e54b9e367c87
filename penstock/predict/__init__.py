"""predict: request + features + routed version -> prediction. Live, shadow, canary and batch all score here."""
