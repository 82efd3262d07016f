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

_VGG_TOPS = {32: "block5", 16: "block4", 8: "block3"}
# trunk: the layers at its top, by its stride.
_TOPS_OF_TRUNKS: dict[str, dict[int, str]] = {
    "resnet50": {32: "stage5/unit3", 16: "stage4/unit6", 8: "stage3/unit4"},
    "vgg16": _VGG_TOPS,
    "vgg19": _VGG_TOPS,
    "yaroslav": {64: "block6", **_VGG_TOPS},
}
# (pattern of the whole parameter path, group) outside the top of the trunk.
_OTHERS = ((r"trunk/.+", BOTTOM), (r"head/.+", HEAD), (r"top/.+", NEW_LAYERS))


def groups_of(path: str, trunk: str, stride: int) -> str:
    """Finds the group of the parameter at a path such as trunk/stage5/unit3/bn1/scale.

    Args:
      path: the path of the parameter.
      trunk: the network's trunk.
      stride: the stride of that trunk.

    Raises:
      ValueError: no group's pattern matches the path.
    """
    top = rf"trunk/{_TOPS_OF_TRUNKS[trunk][stride]}/.+"
    for pattern, group in ((top, TOP_OF_TRUNK), *_OTHERS):
        if re.fullmatch(pattern, path):
            return group
    raise ValueError(f"parameter {path!r} of a {trunk} model is in no layer group")
