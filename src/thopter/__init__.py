"""thopter: one control plane for swarms of coding agents, each alone in a sandboxed box."""

__version__ = "0.1.0"
