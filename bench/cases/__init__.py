"""One module a case; each has ``measure() -> list[Row]``."""
