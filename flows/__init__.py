"""What runs, in what order: the flows, and the `avatar` command."""
