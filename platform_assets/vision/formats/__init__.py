"""The formats a source may have, one file each: what YAML says of it, and how it lists its images."""
