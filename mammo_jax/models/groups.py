"""The layer groups that the stages of training treat differently.

The paper counts layers from the bottom (section 2.2: 46 for ResNet50, 11 and 13
for VGG16 and VGG19). Counted over weighted layers those are the layers below
the last residual unit and below the last VGG block; here they have names.
"""

import re

BOTTOM, TOP_OF_TRUNK, HEAD, NEW_LAYERS = GROUPS = (
    "bottom",
    "top_of_trunk",
    "head",
    "new_layers",
)

_OUTSIDE_TRUNK = ((HEAD, r"head/.+"), (NEW_LAYERS, r"top/.+"))

# trunk: (group, pattern of the whole parameter path); the first match counts.
PARAMETER_GROUPS: dict[str, tuple[tuple[str, str], ...]] = {
    "resnet50": (
        (TOP_OF_TRUNK, r"trunk/stage5/unit3/.+"),
        (BOTTOM, r"trunk/.+"),
        *_OUTSIDE_TRUNK,
    ),
    "vgg16": (
        (TOP_OF_TRUNK, r"trunk/block5/.+"),
        (BOTTOM, r"trunk/.+"),
        *_OUTSIDE_TRUNK,
    ),
    "vgg19": (
        (TOP_OF_TRUNK, r"trunk/block5/.+"),
        (BOTTOM, r"trunk/.+"),
        *_OUTSIDE_TRUNK,
    ),
}


def groups_of(path: str, trunk: str) -> str:
    """Finds the group of the parameter at a path such as trunk/stage5/unit3/bn1/scale.

    Raises:
      ValueError: no group's pattern matches the path.
    """
    for group, pattern in PARAMETER_GROUPS[trunk]:
        if re.fullmatch(pattern, path):
            return group
    raise ValueError(f"parameter {path!r} of a {trunk} model is in no layer group")
