"""Local services: the embedded store, a Prefect server and a worker on this machine. Imports no Prefect."""

from flows.local.environment import Services, environment
from flows.local.running import find, services
from flows.local.up import run_up

__all__ = ["Services", "environment", "find", "run_up", "services"]
