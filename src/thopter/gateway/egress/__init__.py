"""The egress gateway: the way out of a box for everything that is neither its model nor its repository."""
