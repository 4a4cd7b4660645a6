"""Which layers of a live model can carry adapters, and where they are."""
