"""demo: an online shop, played through the whole loop by its public face."""
