"""Adapters limited to regions of the picture."""
