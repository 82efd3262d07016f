"""Phantoms are made where the data is the embedded one, and nowhere else."""

import pytest
from ml_collections import ConfigDict

from mammo_jax.common.errors import UserError
from mammo_jax.training import phantom_data

SETTINGS = {"cases": 3, "seed": 0, "height": 128, "num_workers": 1}


def make_config(data_dir, name="cbis_ddsm/paper_whole_h288", **phantom) -> ConfigDict:
    data = {"data_dir": str(data_dir), "dataset": name}
    return ConfigDict({"data": data, "phantom": {**SETTINGS, **phantom}})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_phantoms_are_made_once(tmp_path):
    config = make_config(tmp_path / "data")
    phantom_data.prepare(config)
    assert {"cbis_ddsm", "phantom.json", "raw"} <= set(names(tmp_path / "data"))
    phantom_data.prepare(config)

    with pytest.raises(UserError, match="choose another folder"):
        phantom_data.prepare(make_config(tmp_path / "data", seed=1))


def test_phantoms_of_a_version_that_drew_a_fixed_share_are_taken(tmp_path):
    data = tmp_path / "data"
    phantom_data.prepare(make_config(data))
    phantom_data.prepare(make_config(data, test_share=0.2))
    with pytest.raises(UserError, match=r"test_share is 0\.2 there and 0\.0 here"):
        phantom_data.prepare(make_config(data, test_share=0.0))


@pytest.mark.parametrize("held", ["cbis_ddsm/paper_whole_h288/1.0.0", "raw"])
def test_a_user_s_own_folder_is_left_alone(tmp_path, held):
    (tmp_path / held).mkdir(parents=True)
    before = names(tmp_path)

    phantom_data.prepare(make_config(tmp_path))

    assert names(tmp_path) == before


@pytest.mark.parametrize("name", ["inbreast/whole_h288", "manifest/whole_h288"])
def test_other_data_sets_are_the_user_s_own(tmp_path, name):
    phantom_data.prepare(make_config(tmp_path / "data", name))

    assert not (tmp_path / "data").exists()
