"""Prompts in, pictures out: any base model, any number of adapters, reproducible picture by picture."""
