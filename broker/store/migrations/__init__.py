"""Migrations: each script is frozen once released and never reads schema.py, which moves on."""
