"""app: the user's file made into stages on a log. The only room that picks adapters, clocks and processes."""
