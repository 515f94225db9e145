from cli.hub import Json
from cli.tree import drawn


def node(name: str, parent: str | None, **more: object) -> Json:
    return {
        "uuid": name,
        "parent_checkpoint_uuid": parent,
        "checkpoint_type": "automatic",
        "creation_context": "timer",
        "verification_status": "pending",
        "purged_at": None,
        "current": False,
        "file_manifest": {"added": 1, "changed": 0, "removed": 0},
        "goal": None,
        "outcome": None,
        "cost_cad": "0",
        **more,
    }


def test_a_straight_line_of_work_stays_in_one_column() -> None:
    lines = list(drawn([node("a", None), node("b", "a"), node("c", "b")]))
    assert [line[:3] for line in lines] == ["● a", "● b", "● c"]


def test_a_branch_stands_off_the_trunk_below_its_parent() -> None:
    lines = list(drawn([node("a", None), node("b", "a"), node("x", "a"), node("c", "b")]))
    assert [line.split("  ")[0] for line in lines] == ["● a", "│ ● x", "● b", "● c"]


def test_the_line_that_leads_to_the_current_checkpoint_is_the_trunk() -> None:
    failed, current = node("b", "a"), node("d", "c", current=True)
    lines = list(drawn([node("a", None), failed, node("c", "a"), current]))
    assert [line.split("  ")[0] for line in lines] == ["● a", "│ ● b", "● c", "◉ d"]


def test_the_current_checkpoint_and_a_purged_one_have_marks_of_their_own() -> None:
    lines = list(drawn([node("a", None, purged_at="2026-01-01"), node("b", "a", current=True)]))
    assert lines[0].startswith("○ a")
    assert lines[1].startswith("◉ b")
    assert "next goal starts here" in lines[1]


def test_a_goal_cannot_steer_the_terminal() -> None:
    goal = "\x1b[2Jwipe"
    (line,) = drawn([node("a", None, checkpoint_type="final", goal=goal, outcome="succeeded")])
    assert "\x1b[2J" not in line
    assert "\\x1b[2Jwipe" in line


def test_ten_thousand_checkpoints_in_a_row_are_drawn_without_recursion() -> None:
    nodes = [node(str(n), str(n - 1) if n else None) for n in range(10_000)]
    assert len(list(drawn(nodes))) == 10_000
