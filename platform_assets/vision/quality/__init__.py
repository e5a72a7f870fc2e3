"""Faults of a dataset: look-alikes, pictures, labels, shifts; and what reviewers decide of them."""
