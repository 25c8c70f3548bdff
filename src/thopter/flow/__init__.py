"""Durable flows: a thin layer over DBOS."""
