"""The names of classes and splits, in the order of their numbers."""

# Paper, section 2.1: background and the four kinds of abnormality.
PATCH_CLASSES = (
    "background",
    "calc_benign",
    "calc_malignant",
    "mass_benign",
    "mass_malignant",
)
WHOLE_CLASSES = ("not_malignant", "malignant")
SPLITS = ("train", "validation", "test")
