"""How anyone talks to a hub."""
