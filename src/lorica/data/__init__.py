"""Pictures and captions to batches: items, images, cache, batches."""
