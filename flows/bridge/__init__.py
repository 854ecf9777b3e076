"""The bridge: it takes notifications of uploads from the bucket, and webhooks of providers, and tells Prefect."""
