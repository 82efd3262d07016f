r"""Converts ImageNet weights of Keras, torchvision, timm or Hugging Face, and models.

Examples:
  python scripts/convert_weights.py --arch=resnet50 \
      --source=resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5 \
      --out=resnet50.safetensors
  python scripts/convert_weights.py --download=vgg16 --out=vgg16.safetensors
  python scripts/convert_weights.py --arch=vgg19 --source=hf://timm/vgg19.tv_in1k \
      --out=vgg19.safetensors
  python scripts/convert_weights.py --released=ddsm_resnet50.h5 --out=runs/released
"""

import argparse
from pathlib import Path

from mammo_jax.common.command_line import make_parser, run_main
from mammo_jax.common.errors import UserError
from mammo_jax.weights.published import PUBLISHED, download

_TRUNKS = sorted({published.architecture for published in PUBLISHED.values()})


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = make_parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--source",
        help="weight file: Keras .h5 or .weights.h5, PyTorch .pth, .safetensors; or "
        "hf://OWNER/NAME[@REVISION], whose model.safetensors is fetched",
    )
    source.add_argument(
        "--download",
        choices=list(PUBLISHED),
        metavar="NAME",
        help="fetch published weights first, into a folder NAME beside --out: "
        + ", ".join(PUBLISHED),
    )
    source.add_argument(
        "--released",
        type=Path,
        metavar="FILE.h5",
        help="a model that the paper's authors released; --out is a directory to make",
    )
    parser.add_argument(
        "--trained_on",
        choices=["ddsm", "inbreast"],
        help="of --released, where the file's name does not contain it",
    )
    parser.add_argument(
        "--arch",
        choices=_TRUNKS,
        help="the trunk that --source holds; --download knows its own",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the .safetensors file to write, or the directory to make of --released",
    )
    return parser.parse_args(arguments)


def convert(arguments: argparse.Namespace) -> None:
    """Does what the command line asks."""
    # Late: `--help` and a wrong option answer at once.
    from mammo_jax.weights.hub import fetch_weights, is_on_hub, pin
    from mammo_jax.weights.pretrained import convert_file
    from mammo_jax.weights.released import convert_released
    from mammo_jax.weights.weight_files import check_format

    if arguments.released:
        if arguments.arch:
            raise UserError("--released says itself what it is; leave --arch out")
        found = convert_released(
            arguments.released, arguments.out, arguments.trained_on
        )
        _report(arguments.out, found)
        return
    if arguments.trained_on:
        raise UserError("--trained_on is of --released; leave it out")
    if arguments.out.suffix != ".safetensors":
        raise UserError(f"--out={arguments.out} must end in .safetensors")
    published_at = ""
    if arguments.download:
        published = PUBLISHED[arguments.download]
        architecture = published.architecture
        if arguments.arch not in (None, architecture):
            raise UserError(
                f"--download={arguments.download} is a {architecture}, not a "
                f"{arguments.arch}; leave --arch out"
            )
        # In a folder of its own: Keras gave two files of ResNet50 the same name.
        target = arguments.out.parent / arguments.download / published.file_name
        check_format(target)  # before anything is fetched
        source = download(published, target)
    elif arguments.arch is None:
        raise UserError(f"--source needs --arch, one of {', '.join(_TRUNKS)}")
    else:
        architecture, name = arguments.arch, pin(arguments.source)
        published_at = name * is_on_hub(name)
        source = fetch_weights(name) if published_at else Path(name)
    if source.resolve() == arguments.out.resolve():
        raise UserError("--out is the source itself; choose another name")
    metadata = convert_file(architecture, source, arguments.out, published_at)
    _report(arguments.out, metadata)


def _report(out: Path, found: dict[str, str]) -> None:
    print(f"wrote {out}")
    for key, value in found.items():
        if value:
            print(f"  {key}: {value}")


if __name__ == "__main__":
    run_main(parse_arguments, convert)
