"""cli: the verbs, each a thin call of the app, the console or the server."""
