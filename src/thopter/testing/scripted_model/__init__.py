"""The scripted model: a server for the Anthropic Messages API that plays a scenario file.

``python -m thopter.testing.scripted_model --scenario demo --port 8399``, or in tests
``async with ScriptedModel(scenario) as model`` and ``with running(scenario) as model``.
"""

from thopter.testing.scripted_model.scenario import (
    Scenario,
    Script,
    Tool,
    Turn,
    Usage,
    load_scenario,
    parse_scenario,
)
from thopter.testing.scripted_model.server import Exchange, ScriptedModel, Seen
from thopter.testing.scripted_model.thread import running

__all__ = [
    "Exchange", "Scenario", "Script", "ScriptedModel", "Seen", "Tool", "Turn", "Usage",
    "load_scenario", "parse_scenario", "running",
]  # fmt: skip
