"""Events, snapshot, plans, runs and logs of a site, on SQLite or PostgreSQL; and the site's lock. See docs/store.md."""

from orchestrator.store.lock import Holder, Lock, SiteLock
from orchestrator.store.store import Store
from orchestrator.store.values import InFlight, Run, RunStatus, StepLog

__all__ = ["Holder", "InFlight", "Lock", "Run", "RunStatus", "SiteLock", "StepLog", "Store"]
