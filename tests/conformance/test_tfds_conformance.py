"""TFDS's own conformance tests, on phantoms. They need TensorFlow: make test-peers."""

import csv
import os
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("tensorflow", reason="run by `make test-peers`")

import tensorflow_datasets as tfds

from mammo_jax.phantom import write_cbis_ddsm, write_inbreast
from tfds_builders.building import take_inventory
from tfds_builders.cbis_ddsm.cbis_ddsm_dataset_builder import Builder as CbisDdsm
from tfds_builders.inbreast.inbreast_dataset_builder import Builder as Inbreast
from tfds_builders.manifest.manifest_dataset_builder import Builder as Manifest

# TensorFlow, Keras and Beam warn of each other.
pytestmark = pytest.mark.filterwarnings("default")


def write_manifest(folder: Path) -> None:
    """The phantom's films, told of by a manifest."""
    write_cbis_ddsm(folder, cases=12, seed=2, height=160, num_workers=1)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient_id", "laterality", "view", "label", "split"])
        for number, case in enumerate(sorted(folder.rglob("Mass-Training_*"))):
            side, view, *rest = case.name.split("_")[3:]
            if rest:  # a mask and a crop
                continue
            (path,) = case.rglob("*.dcm")
            split = ("train", "validation", "test")[number % 3]
            writer.writerow(
                [path.relative_to(folder), f"p{number}", side, view, number % 2, split]
            )


class Conformance:
    """What the test cases share: a phantom to build from, and the counts it gives."""

    SKIP_CHECKSUMS = True  # nothing is downloaded
    write: ClassVar

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.EXAMPLE_DIR = os.path.join(folder.name, "raw")
        cls.write(Path(cls.EXAMPLE_DIR))
        (config,) = cls.BUILDER_CONFIG_NAMES_TO_TEST
        inventory = take_inventory(
            f"{cls.DATASET_CLASS.name}/{config}", cls.EXAMPLE_DIR
        )
        cls.SPLITS = {
            name: counts["views"] for name, counts in inventory["splits"].items()
        }
        super().setUpClass()

    def _make_builder(self, config=None):
        # TFDS reads ArrayRecord with `data_source` alone, and tests `as_dataset`.
        return self.dataset_class(
            data_dir=self.tmp_dir,
            config=config,
            file_format="tfrecord",
            num_workers=1,
        )


class CbisDdsmTest(Conformance, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = CbisDdsm
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = ["official_whole_h288"]

    @staticmethod
    def write(folder):
        write_cbis_ddsm(folder, cases=14, seed=3, height=160, num_workers=1)


class InbreastTest(Conformance, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Inbreast
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = ["whole_h288"]

    @staticmethod
    def write(folder):
        write_inbreast(folder, cases=8, seed=1, height=160, num_workers=1)


class ManifestTest(Conformance, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Manifest
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = ["whole_h288"]
    write = staticmethod(write_manifest)


class PatchesTest(Conformance, tfds.testing.DatasetBuilderTestCase):
    """The other features; one patch of each region and one of background."""

    DATASET_CLASS = CbisDdsm
    BUILDER_CONFIG_NAMES_TO_TEST: ClassVar = ["official_s1_h288"]
    write = CbisDdsmTest.write

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        inventory = take_inventory("cbis_ddsm/official_s1_h288", cls.EXAMPLE_DIR)
        cls.SPLITS = {
            name: 2 * counts["abnormalities"]
            for name, counts in inventory["splits"].items()
        }
