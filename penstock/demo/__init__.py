"""demo: the whole loop on a simulated year, in one command."""
