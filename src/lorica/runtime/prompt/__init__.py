"""Adapters named in a prompt."""
