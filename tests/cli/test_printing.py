"""What people are told of a machine."""

from cli.printing import how_to_go_on


def test_a_parked_machine_goes_on_by_what_its_reason_names_and_by_nothing_else() -> None:
    reason = "the budget of project shop is short: …: autovibe budget top-up shop 2500 --resource tokens"
    assert how_to_go_on("shop", "m1", {"hold": "budget", "reason": reason}) == [
        "to go on, give it more: autovibe budget top-up shop 2500 --resource tokens",
        "to end it: autovibe machine stop m1",
    ]


def test_where_the_reason_names_no_command_it_is_said_where_to_look() -> None:
    first, _ = how_to_go_on("shop", "m1", {"hold": "budget", "reason": None})
    assert first.endswith("autovibe budget show shop")


def test_a_rate_limit_ends_by_itself() -> None:
    first, _ = how_to_go_on("shop", "m1", {"hold": "rate_limit", "until": "2026-11-28T12:00:00.123Z"})
    assert first == "it goes on by itself after 2026-11-28T12:00:00"
