"""What a run leaves behind: checkpoints, previews, metrics, files."""
