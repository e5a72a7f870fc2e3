"""Kestrel: a vision-model training platform that is one Dagster asset graph."""
