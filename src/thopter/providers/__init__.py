"""One module = one kind of place where boxes are made."""
