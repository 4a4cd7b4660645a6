"""Pictures and captions: from a folder or a table to the batches of a training run."""
