"""Scoring anyone's files with trained models: `python -m mammo_jax.predict`."""
