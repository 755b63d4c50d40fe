"""The boot service: what machines ask that start over the network, and what the agent in the discovery image tells.

A process of its own (`python -m orchestrator.netboot SETTINGS.json`) that shares nothing with an apply but the store:
every answer is made from what the store believes, every report becomes an event before it is acknowledged.
"""

from orchestrator.netboot.record import Record, running
from orchestrator.netboot.settings import Settings

__all__ = ["Record", "Settings", "running"]
