"""A larger installation, run for real: PostgreSQL, Redis, two API servers behind a proxy, three workers, one store."""
