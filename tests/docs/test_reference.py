"""The reference pages show the whole face, with docstrings that say enough."""

import importlib.util
import inspect
import re

import pytest
from doc_pages import ROOT

import mammo_jax

PUBLIC = mammo_jax.__all__


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The rendered page of the face."""
    spec = importlib.util.spec_from_file_location("ref", ROOT / "docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("reference")
    module.write_reference(folder)
    return (folder / "mammo_jax.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_on_the_page(page, name):
    assert f'id="{name}"' in page
    first_line = inspect.getdoc(getattr(mammo_jax, name)).splitlines()[0]
    first_words = re.findall(r"\w+", first_line)[:3]
    assert re.search(r"\W+".join(first_words), re.sub(r"<[^>]*>", "", page))


def test_the_page_needs_no_network(page):
    assert not re.findall(r'(?:src|href)="https?://(?!pdoc)[^"]*"', page)
