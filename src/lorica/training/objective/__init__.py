"""What is minimised: noise, targets, weights, losses."""
