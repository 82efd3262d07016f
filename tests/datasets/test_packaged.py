"""Packaged examples, beside those that TFDS reads."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from google.protobuf import message
from tensorflow_datasets.proto import tf_example_pb2

from mammo_jax.common.errors import UserError
from mammo_jax.datasets import pipeline
from mammo_jax.datasets.packaged import Examples, parse_example
from mammo_jax.images.png import encode_png

WHOLE, PATCHES = "cbis_ddsm/paper_whole_h288", "cbis_ddsm/paper_s1_h288"
SHAPE = 288, 224
IMAGE = np.arange(120, dtype=np.uint16).reshape(12, 10)


def _source(data_dir, name: str, **options):
    directory = pipeline.newest_version(name, str(data_dir))
    return tfds.builder_from_directory(directory).as_data_source("train", **options)


@pytest.fixture(scope="module")
def record(phantom_data) -> bytes:
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    return _source(phantom_data, WHOLE, deserialize_method=raw)[0]


@pytest.mark.parametrize("name", [WHOLE, PATCHES])
def test_examples_are_those_that_tfds_reads(phantom_data, name):
    ours = pipeline.open_dataset(name, str(phantom_data)).sources["train"]
    theirs = _source(phantom_data, name)
    for example, expected in zip(ours, theirs, strict=True):
        assert example["image"].dtype == expected["image"].dtype
        np.testing.assert_array_equal(example["image"], expected["image"][..., 0])
        assert example["label"] == expected["label"]
        centre = "".join(f"_{place}" for place in expected.get("centre", ()))
        assert example["image_id"] == expected["image_id"].decode() + centre
        for key in ("patient_id", "laterality", "view"):
            assert example[key] == expected[key].decode()


def _earlier_record(image: np.ndarray = IMAGE, **numbers: list[int]) -> bytes:
    """A record as versions before this layout's description wrote it."""
    example = tf_example_pb2.Example()
    features = example.features.feature
    features["image"].bytes_list.value.append(encode_png(image))
    for name in ("image_id", "patient_id", "laterality", "view"):
        features[name].bytes_list.value.append(name.upper().encode())
    for name, values in numbers.items():
        features[name.replace("__", "/")].int64_list.value.extend(values)
    return example.SerializeToString()


def test_whole_images_packaged_before_are_read():
    record = _earlier_record(
        label=[1],
        breast_density=[3],
        rois__class=[4, 1],
        rois__bbox=[1, 1, 5, 3, 2, 0, 3, 9],
        rois__corners=[4, 4],
    )
    features = tf_example_pb2.Example.FromString(record)
    features.features.feature["outlines"].bytes_list.value.append(b"zlib, not read")
    found = parse_example(features.SerializeToString(), IMAGE.shape)
    np.testing.assert_array_equal(found.pop("image"), IMAGE)
    assert found == {
        **{"label": 1, "breast_density": 3},
        **{"image_id": "IMAGE_ID", "patient_id": "PATIENT_ID"},
        **{"laterality": "LATERALITY", "view": "VIEW"},
        **{
            "abnormality_types": "calc;mass",
            "lesion_size": np.float32((9 / IMAGE.size) ** 0.5),
        },
    }


def test_a_lesions_size_does_not_depend_on_how_the_image_was_squeezed():
    # The same lesion of the same image, on a grid of half as many columns.
    record = {"label": [1], "breast_density": [3], "rois__class": [4]}
    record |= {"rois__corners": [4]}
    sizes = [
        parse_example(
            _earlier_record(image=image, rois__bbox=[2, 0, 6, right], **record),
            image.shape,
        )["lesion_size"]
        for image, right in ((IMAGE, 8), (IMAGE[:, ::2], 4))
    ]
    assert sizes[0] == sizes[1] > 0


def test_patches_packaged_before_are_read():
    record = _earlier_record(label=[2], centre=[70, 8])
    features = tf_example_pb2.Example.FromString(record)
    features.features.feature["overlap"].float_list.value.append(0.5)
    found = parse_example(features.SerializeToString(), IMAGE.shape)
    np.testing.assert_array_equal(found.pop("image"), IMAGE)
    assert found == {
        **{"label": 2, "image_id": "IMAGE_ID_70_8", "patient_id": "PATIENT_ID"},
        **{"laterality": "LATERALITY", "view": "VIEW"},
    }


def test_an_image_without_lesions_has_no_lesion_size(record):
    example = tf_example_pb2.Example.FromString(record)
    for name in ("class", "bbox", "corners"):
        example.features.feature[f"rois/{name}"].int64_list.ClearField("value")
    found = parse_example(example.SerializeToString(), SHAPE)
    assert found["abnormality_types"] == ""
    assert found["lesion_size"] == 0


@pytest.mark.parametrize(
    "missing",
    ["image", "label", "image_id", "rois/class", "rois/bbox", "breast_density"],
)
def test_an_example_that_lacks_something_is_refused(record, missing):
    example = tf_example_pb2.Example.FromString(record)
    del example.features.feature[missing]
    with pytest.raises(ValueError, match=f"feature {missing} is missing"):
        parse_example(example.SerializeToString(), SHAPE)


@pytest.mark.parametrize("count", [0, 2])
def test_an_example_with_no_or_several_labels_is_refused(record, count):
    example = tf_example_pb2.Example.FromString(record)
    example.features.feature["label"].int64_list.value[:] = [1] * count
    examples = Examples([example.SerializeToString()], SHAPE, UserError)
    with pytest.raises(UserError, match=f"its feature label has {count} values"):
        list(examples)


@pytest.mark.parametrize("number", [-1, 0, 5])
def test_an_example_with_a_region_of_no_class_is_refused(record, number):
    example = tf_example_pb2.Example.FromString(record)
    classes = example.features.feature["rois/class"].int64_list.value
    classes[0] = number
    with pytest.raises(ValueError, match="a region's class is no lesion's"):
        parse_example(example.SerializeToString(), SHAPE)


def test_a_damaged_example_is_named(record):
    records = [record, record[:-100]]
    examples = Examples(records, SHAPE, lambda text: UserError(f"set x, {text}"))
    with pytest.raises(UserError, match=r"^set x, example 1: "):
        list(examples)


@pytest.mark.parametrize("feature", ["label", "breast_density"])
def test_numbers_beyond_all_are_refused(record, feature):
    example = tf_example_pb2.Example.FromString(record)
    example.features.feature[feature].int64_list.value[:] = [2**40]
    with pytest.raises(UserError, match="example 0: "):
        Examples([example.SerializeToString()], SHAPE, UserError)[0]


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_of_no_class_is_refused(record, label):
    example = tf_example_pb2.Example.FromString(record)
    example.features.feature["label"].int64_list.value[:] = [label]
    with pytest.raises(ValueError, match="its label is of no class"):
        parse_example(example.SerializeToString(), SHAPE)


@pytest.mark.parametrize(
    ("feature", "values", "message"),
    [
        ("rois/class", [1, 2, 3], "not a class and a box each"),
        ("rois/bbox", [0, 0, 6400, 4800], "not within the image"),
        ("rois/bbox", [-600, -600, 0, 0], "not within the image"),
        ("rois/bbox", [0, 0, 2**32, 2**32], "not within the image"),
        ("breast_density", [9], "its breast density is none"),
    ],
)
def test_numbers_that_no_image_has_are_refused(record, feature, values, message):
    example = tf_example_pb2.Example.FromString(record)
    features = example.features.feature
    features["rois/class"].int64_list.value[:] = [1]
    features["rois/bbox"].int64_list.value[:] = [0, 0, 9, 9]
    features[feature].int64_list.value[:] = values
    with pytest.raises(ValueError, match=message):
        parse_example(example.SerializeToString(), SHAPE)


def test_a_feature_of_another_type_is_refused(record):
    example = tf_example_pb2.Example.FromString(record)
    example.features.feature["rois/class"].float_list.value[:] = [1.0]
    with pytest.raises(ValueError, match="rois/class is of another type"):
        parse_example(example.SerializeToString(), SHAPE)


def test_a_box_that_ends_before_it_begins_is_refused(record):
    example = tf_example_pb2.Example.FromString(record)
    box = example.features.feature["rois/bbox"].int64_list.value
    box[:4] = [box[2], box[1], box[0], box[3]]
    with pytest.raises(ValueError, match="a region's box ends before it begins"):
        parse_example(example.SerializeToString(), SHAPE)


def test_a_damaged_example_is_refused(record):
    with pytest.raises(message.DecodeError):
        parse_example(record[:-100], SHAPE)
    with pytest.raises(ValueError, match="288x225"):
        parse_example(record, (288, 225))


def test_examples_count_from_the_end_and_end(record):
    examples = Examples([record, record], SHAPE, UserError)
    assert examples[-1]["image_id"] == examples[0]["image_id"]
    assert len(list(examples)) == 2
    with pytest.raises(IndexError):
        examples[2]
