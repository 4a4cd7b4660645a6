"""Files that a run writes: checkpoints, previews, metrics, the result."""
