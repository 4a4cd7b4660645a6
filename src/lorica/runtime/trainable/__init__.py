"""Trainable factors on a live model."""
