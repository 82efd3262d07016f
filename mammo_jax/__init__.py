"""End-to-end training of whole-mammogram cancer classifiers in JAX."""

__version__ = "0.2.0"
