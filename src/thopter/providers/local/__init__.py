"""Boxes on this very machine: Linux namespaces and overlayfs, no runtime binary.

``LocalProvider`` is loaded on use: the zygote imports modules of this package and must stay small.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thopter.providers.local.provider import LocalProvider

__all__ = ["LocalProvider"]


def __getattr__(name: str) -> object:
    if name == "LocalProvider":
        from thopter.providers.local.provider import LocalProvider

        return LocalProvider
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
