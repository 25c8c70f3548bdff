"""What every test shares: how hard property tests search.

``house`` is the same on every run, so that a change is judged by itself; ``deep`` (``./dev test
--all``) looks for what nobody has seen yet. Neither has a deadline: slow machines are no failure.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["battery_plugin"]

_patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None}
settings.register_profile("house", derandomize=True, max_examples=60, **_patient)
settings.register_profile("deep", max_examples=2000, print_blob=True, **_patient)
settings.load_profile("house")
