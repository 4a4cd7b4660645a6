"""Files on disk and on the Hub: headers, tensors, hashes."""
