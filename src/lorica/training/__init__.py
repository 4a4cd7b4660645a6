"""Data and a recipe in, an adapter out: the one training loop and its parts."""
