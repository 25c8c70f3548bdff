"""The nouns of the product: pure data and sockets, no I/O (standard library and msgspec only)."""
