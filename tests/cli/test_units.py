from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import units
from cli.exits import CliError, Exit


@pytest.mark.parametrize(
    ("typed", "amount"),
    [("5CAD", ("5", "CAD")), ("0.50 cad", ("0.50", "CAD")), ("5", ("5", "CAD")), ("0", ("0", "CAD"))],
)
def test_money_is_an_amount_and_a_currency(typed: str, amount: tuple[str, str]) -> None:
    assert units.money(typed, "--budget") == amount


@pytest.mark.parametrize("typed", ["-5CAD", "NaN", "five", "1e3", "", "5.0000000001CAD", "5CADS"])
def test_what_is_no_money_is_refused_with_an_example(typed: str) -> None:
    with pytest.raises(CliError, match="is not an amount of money") as refused:
        units.money(typed, "--budget")
    assert refused.value.exit_code is Exit.USAGE
    assert refused.value.remedy == "--budget 5CAD"


@pytest.mark.parametrize(("typed", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("1d", 86400)])
def test_a_time_may_have_a_unit(typed: str, seconds: int) -> None:
    assert units.seconds(typed, "--deadline") == seconds


@pytest.mark.parametrize("typed", ["0", "0.2s", "soon", "-1s"])
def test_a_time_of_less_than_a_second_is_refused(typed: str) -> None:
    with pytest.raises(CliError, match="not a time of at least 1 s"):
        units.seconds(typed, "--deadline")


@pytest.mark.parametrize(
    ("typed", "mebibytes"), [("512M", 512), ("2G", 2048), ("2GiB", 2048), ("64", 64), ("2048k", 2)]
)
def test_a_size_may_have_a_unit(typed: str, mebibytes: int) -> None:
    assert units.mebibytes(typed, "--memory") == mebibytes


def test_a_size_below_a_mebibyte_is_refused() -> None:
    with pytest.raises(CliError, match="at least 1 MiB"):
        units.mebibytes("3k", "--memory")


def test_cores_are_counted_in_thousandths() -> None:
    assert units.cores("0.25", "--cpu") == 250
    with pytest.raises(CliError, match="not a number of cores"):
        units.cores("many", "--cpu")


@pytest.mark.parametrize("typed", ["1.01", "-0.1", "NaN"])
def test_greediness_is_between_nothing_and_everything(typed: str) -> None:
    with pytest.raises(CliError):
        units.greediness(typed)


@given(st.text(max_size=40))
def test_whatever_is_typed_is_read_or_refused_but_never_breaks(typed: str) -> None:
    for read in (units.money, units.seconds, units.mebibytes, units.cores):
        with suppress(CliError):
            read(typed, "--option")
