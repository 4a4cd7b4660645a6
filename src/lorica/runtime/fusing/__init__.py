"""Adapters inside the base weights, and out again bit for bit."""
