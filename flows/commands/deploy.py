"""`avatar deploy`: what `avatar up` deploys, on the Prefect server that PREFECT_API_URL names."""

import argparse
import json

from tasks.errors import AvatarError
from tasks.settings import AvatarSettings


def run(arguments: argparse.Namespace) -> int:
    from flows.local import environment, find
    from flows.local.deploying import deploy, ensure_pool

    settings = AvatarSettings()
    running = find(settings)
    if not running.api_url:
        raise AvatarError(
            "There is no Prefect server to deploy to: PREFECT_API_URL is not set or does not answer, and `avatar up` "
            "does not run.",
            hint="Set PREFECT_API_URL, or start `avatar up`, which deploys by itself.",
        )
    variables = environment(settings, running)
    ensure_pool(variables, running.api_url)
    names = deploy(variables)
    if arguments.json:
        print(json.dumps({"api_url": running.api_url, "deployments": names}))
    else:
        print(
            f"Deployed to {running.api_url}: {', '.join(names)}; with the accounts' limits and the automations."
        )
    return 0
