"""app: the door in processes of its own: workers share a port, whatever they do not know they pass on."""
