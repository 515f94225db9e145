"""A client without tools (aider) is first asked for the files that a script looks at, then answered with whole files."""

import pytest

from services.rehearsal.script import Doing, Script, Turn
from services.rehearsal.tools import without_tools

LOOK = Turn(say="I look at a.py first.", do=(Doing(read="a.py"),))
WRITE = Turn(say="Now it is one.", do=(Doing(write="a.py", content="one\n"),))
END = Turn(say="Done.")
FILES = "Done.\n\na.py\n```\none\n```\n"


@pytest.mark.parametrize(("answered", "answer"), [("", LOOK.say), (f"before\n{LOOK.say}", FILES)])
def test_what_it_was_answered_before_decides_what_comes_next(answered: str, answer: str) -> None:
    assert without_tools(Script(name="s", match="", turns=(LOOK, WRITE, END)), answered) == answer


def test_a_turn_that_does_not_name_what_it_looks_at_is_passed_over() -> None:
    silent = Turn(say="I look around.", do=(Doing(read="a.py"),))
    assert without_tools(Script(name="s", match="", turns=(silent, WRITE, END)), "") == FILES
