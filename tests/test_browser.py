"""The helper that looks for a browser."""

import browser
import pytest
from _pytest.outcomes import Failed, Skipped


@pytest.mark.parametrize(("needed", "outcome"), [("", Skipped), ("1", Failed)])
def test_a_missing_browser_fails_where_it_is_needed(monkeypatch, needed, outcome):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("MAMMO_JAX_BROWSER", "")
    monkeypatch.setenv("MAMMO_JAX_NEEDS_BROWSER", needed)
    with pytest.raises(outcome, match="no Chromium"):
        browser.find_browser()
