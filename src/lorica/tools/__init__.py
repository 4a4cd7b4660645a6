"""Facts about adapters, and new adapters from old ones."""
