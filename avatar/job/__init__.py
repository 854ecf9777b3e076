"""A job's life apart from its renders: its inputs, its identity and plan, its price, its publication."""
