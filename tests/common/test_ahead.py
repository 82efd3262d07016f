"""Each item comes once the next has been made, and none is lost."""

import pytest

from mammo_jax.common.ahead import one_behind
from mammo_jax.common.errors import RunStoppedError, UserError


@pytest.mark.parametrize("count", range(4))
@pytest.mark.parametrize(
    "end", [None, UserError("bad file"), RunStoppedError(15, "stopped")]
)
def test_the_next_is_begun_before_one_is_dealt_with(count, end):
    done = []

    def begin():
        for number in range(count):
            done.append(("begun", number))
            yield number
        if end is not None:
            raise end

    raised = None
    try:
        for number in one_behind(begin()):
            done.append(("dealt with", number))
    except (UserError, RunStoppedError) as error:
        raised = error
    assert raised is end
    for number in range(count):
        assert done.index(("dealt with", number)) > done.index(("begun", number))
        if number + 1 < count:
            begun_next = done.index(("begun", number + 1))
            assert begun_next == done.index(("dealt with", number)) - 1
    assert len(done) == 2 * count
