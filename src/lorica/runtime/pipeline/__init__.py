"""A pipeline's call: steps, schedules, batches, threads, checks of each forward."""
