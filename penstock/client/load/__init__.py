"""client: load on a server at a rate that does not wait for it, measured without flattering it."""
