"""Use cases: boxes, runs, truth."""
