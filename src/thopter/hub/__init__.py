"""The daemon; the only composition root."""
