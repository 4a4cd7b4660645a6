"""The settings of a run, checked at the edge."""
