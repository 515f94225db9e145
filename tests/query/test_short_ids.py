import pytest

from services.query.problems import HttpProblem
from services.query.reads import uuid_range


def test_an_id_too_short_to_look_for_is_told_so() -> None:
    with pytest.raises(HttpProblem) as problem:
        uuid_range("01a", "checkpoint")
    assert problem.value.remedy == "write at least 4 characters of the id"


def test_what_is_no_id_is_only_not_there() -> None:
    with pytest.raises(HttpProblem) as problem:
        uuid_range("mine-own", "checkpoint")
    assert not problem.value.remedy
