"""The model gateway: the one way from a box to a model, with a credential the box never sees."""
