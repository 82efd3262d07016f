"""A file in, a mammogram out."""
