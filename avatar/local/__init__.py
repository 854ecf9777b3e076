"""Local services: the embedded store, a Prefect server and a worker on this machine. Imports no Prefect."""

from avatar.local.environment import Services, environment, prefect_variables
from avatar.local.services import find, services
from avatar.local.up import run_up

__all__ = ["Services", "environment", "find", "prefect_variables", "run_up", "services"]
