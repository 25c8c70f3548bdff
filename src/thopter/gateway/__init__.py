"""The only ways out of a box; each runs alone."""
