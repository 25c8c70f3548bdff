"""One module = one kind of coding program."""
