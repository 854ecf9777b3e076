"""Local services: the embedded store, a Prefect server and workers on this machine. Imports no Prefect."""

from avatar.local.environment import Services, environment, prefect_variables
from avatar.local.services import find, run_up, services

__all__ = ["Services", "environment", "find", "prefect_variables", "run_up", "services"]
