"""Waiting for `avatar up`."""

import subprocess


def until_ready(process: "subprocess.Popen[str]") -> str:
    """What `avatar up` says until it is ready; it fails the test if it ends instead."""
    said = []
    for line in process.stdout or ():
        said.append(line)
        if line.startswith("Everything runs."):
            return "".join(said)
    process.communicate()  # so that its pipes are closed
    raise RuntimeError(f"`avatar up` ended with exit {process.returncode}; it said: {''.join(said)}")
