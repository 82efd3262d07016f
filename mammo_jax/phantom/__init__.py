"""Synthetic mammograms, written as raw files in the real data sets' own layouts."""

from mammo_jax.phantom.cbis_layout import write_cbis_ddsm
from mammo_jax.phantom.inbreast_layout import write_inbreast

# Layout's name -> what writes it.
LAYOUTS = {"cbis_ddsm": write_cbis_ddsm, "inbreast": write_inbreast}

__all__ = ["LAYOUTS", "write_cbis_ddsm", "write_inbreast"]
