"""What a run trains on: pictures and captions, encoded and cached."""
