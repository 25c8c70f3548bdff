"""Fixtures of the boxd tests; what they are made of is in boxd_support."""

from __future__ import annotations

from boxd_support import boxd, folder, start

__all__ = ["boxd", "folder", "start"]
