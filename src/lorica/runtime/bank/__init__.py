"""What stands on one layer, and the formula that it computes."""
