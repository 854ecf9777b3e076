"""What the verbs of the `avatar` command do, one module for each or for several that belong together."""
