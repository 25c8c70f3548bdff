"""The policies that come with thopter; docs/decisions/0013-egress.md says why they are what they are."""

from __future__ import annotations

from thopter.gateway.policy.build import registry_rules
from thopter.gateway.policy.model import Policy

#: What most work needs, and all of it read-only.
_REGISTRIES = ("npm", "pypi", "crates", "go", "debian", "ubuntu", "alpine", "rubygems", "maven", "nuget")

SHIPPED: dict[str, Policy] = {
    "default": Policy(
        name="default",
        doc="The model, the run's own repository, and package registries read-only.",
        rules=registry_rules(_REGISTRIES),
        registries=_REGISTRIES,
    ),
    "ask": Policy(
        name="ask",
        doc="As default; what it does not allow waits a minute for a person's word.",
        rules=registry_rules(_REGISTRIES),
        registries=_REGISTRIES,
        unknown="ask",
    ),
    "closed": Policy(name="closed", doc="The model and the run's own repository, nothing else."),
    "outsider": Policy(
        name="outsider",
        doc="For text by people who may not write to the repository: as closed, in a virtual machine.",
        isolation="vm",
    ),
}
