"""One adapter method a file: names of its tensors, building it, cutting it by rows, PEFT's spelling."""
