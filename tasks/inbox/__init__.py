"""The inbox: files dropped into the bucket are found, taken by one run each, rendered, and filed away."""
