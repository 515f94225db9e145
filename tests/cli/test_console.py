import io

import pytest

from cli import console
from cli.exits import CliError, Exit


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_need_a_terminal_and_no_objection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert console.colours(Terminal())
    assert not console.colours(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not console.colours(Terminal())


@pytest.mark.parametrize(
    ("amount", "shown"), [("0.023000000", "0.023 CAD"), ("5", "5.00 CAD"), ("0.5", "0.50 CAD"), (None, "0.00 CAD")]
)
def test_money_keeps_every_digit_that_counts(amount: str | None, shown: str) -> None:
    assert console.money(amount) == shown


def test_sizes_are_read_at_a_glance() -> None:
    assert [console.size(n) for n in (0, 1023, 1024, 5 * 1024**2, 3 * 1024**4)] == [
        "0 B", "1023 B", "1.0 KiB", "5.0 MiB", "3072.0 GiB",
    ]  # fmt: skip


def test_a_table_is_as_wide_as_its_content_and_holds_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("A", "B"), [("x", None), ("longer\x1b", 2)])
    assert capsys.readouterr().out.splitlines() == ["A           B", "x           -", "longer\\x1b  2"]


def test_an_error_names_field_value_limit_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    error = CliError(Exit.REFUSED, "too much", remedy="ask for less", problem={"field": "budget", "limit": "5"})
    console.complain(error, as_json=False)
    assert capsys.readouterr().err.splitlines() == [
        "error: too much",
        "  field: budget",
        "  limit: 5",
        "  try: ask for less",
    ]
