"""TFDS data sets, each a folder as TFDS users expect it."""

# For the commands' help, which imports no builder: TFDS takes a second.
NAMES = """\
Data sets:
  cbis_ddsm/PROTOCOL_KIND  the split of the paper or the official one
  inbreast/KIND            also inbreast/whole_20patients, _30, _40, _50 and _60:
                           so many patients to train on
  manifest/KIND            your own images, listed in a table
PROTOCOL is paper or official; KIND whole (images), or patches: s1, s10, s30, s10hard.
Images have 1152 rows; with _h288, _h576 or _h4608 behind its name a set has others.
"""
