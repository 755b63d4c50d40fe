"""Roles carried to their hosts: one SSH session per host, the play run there by the host's own Python.

executor.py  batches: starts, cancels, recovers; an event loop in a thread of its own
session.py   one SSH connection and what is said over it
cargo.py     what a play needs: parcels, settings, inventory
on_host/     the two programs that run on the host
"""

from orchestrator.executors.carry.executor import CarryExecutor

__all__ = ["CarryExecutor"]
