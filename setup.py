"""What pyproject.toml cannot say: two folders move into the package in a wheel."""

import setuptools

_FOLDERS = {f"mammo_jax.{name}": name for name in ("configs", "scripts")}

setuptools.setup(
    packages=[
        *setuptools.find_packages(include=["mammo_jax*", "tfds_builders*", "paper*"]),
        *_FOLDERS,
    ],
    package_dir=_FOLDERS,
)
