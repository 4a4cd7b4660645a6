"""Facts about adapter files, and new files from old ones."""
