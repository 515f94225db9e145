"""The built-in agent's conversation on disk: what was said stays, what was torn is cut off, what was open is answered."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.loop.history import History, Message


def use(use_id: str) -> Message:
    call: dict[str, object] = {"type": "tool_use", "id": use_id, "name": "bash", "input": {}}
    return {"role": "assistant", "content": [call], "stop_reason": "tool_use"}


def said(path: Path) -> list[Message]:
    history = History(path)
    try:
        return history.messages()
    finally:
        history.close()


@given(at=st.integers(0, 400))
def test_a_conversation_that_was_torn_anywhere_goes_on_from_its_last_whole_message(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "talk.jsonl"
    messages: list[Message] = [{"role": "user", "content": f"né {n}\n\u2028"} for n in range(6)]
    history = History(path)
    for message in messages:
        history.add(message)
    history.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:at])
    kept = whole[:at].count(b"\n")
    history = History(path)
    assert history.messages() == messages[:kept]
    history.add({"role": "user", "content": "more"})
    history.close()
    assert said(path) == [*messages[:kept], {"role": "user", "content": "more"}]


def test_calls_that_nobody_answers_any_more_are_answered_once(tmp_path: Path) -> None:
    history = History(tmp_path / "talk.jsonl")
    history.add({"role": "user", "content": "goal"})
    history.add(use("toolu_1"))
    history.settle()
    history.settle()
    last = history.messages()[-1]
    history.close()
    assert (len(said(tmp_path / "talk.jsonl")), last["role"]) == (3, "user")
    assert isinstance(last["content"], list)
    assert (last["content"][0]["tool_use_id"], last["content"][0]["is_error"]) == ("toolu_1", True)


def test_a_fork_holds_the_others_conversation_and_its_own_goal_and_leaves_the_other_as_it_was(tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    history = History(other)
    history.add({"role": "user", "content": "goal"})
    history.add(use("toolu_1"))
    history.close()
    before = other.read_bytes()
    forked = History.forked(tmp_path / "mine.jsonl", other, "my own")
    forked.close()
    roles = [each["role"] for each in said(tmp_path / "mine.jsonl")]
    assert (roles, said(tmp_path / "mine.jsonl")[-1]["content"]) == (["user", "assistant", "user", "user"], "my own")
    assert other.read_bytes() == before
    assert not (tmp_path / "mine.new").exists()


def test_whether_the_model_had_ended_is_seen_from_the_last_turn(tmp_path: Path) -> None:
    history = History(tmp_path / "talk.jsonl")
    assert history.ended == ""
    history.add(use("toolu_1"))
    assert history.ended == ""
    history.add({"role": "assistant", "content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"})
    assert (history.ended, history.last_text) == ("end_turn", "Done.")
    history.close()
