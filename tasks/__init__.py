"""The steps of a talking avatar video, one noun per file.

A task file holds decorators and one call each. What the call does lives in the plain packages beside it
(`providers`, `media`, `storage`, `renders`, `jobs`), which never import Prefect.
"""
