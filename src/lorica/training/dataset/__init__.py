"""The pictures and captions of a run, encoded and cached."""
