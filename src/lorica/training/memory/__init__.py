"""Memory of a run, estimated before it starts."""
