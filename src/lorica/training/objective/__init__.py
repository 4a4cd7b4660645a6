"""The objective of a run: noise, weights, losses."""
