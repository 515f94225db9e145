"""What is kept, for how long, and what the door's answers become."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.wire import Reply
from services.query.answers import ENTRY_BYTES_MAX, Answers
from services.query.door import answer_of
from services.query.position import Position
from services.query.problems import HttpProblem


class Counted:
    """A read that counts how often it was done."""

    def __init__(self, body: bytes = b"{}") -> None:
        self.body = body
        self.times = 0

    async def __call__(self) -> bytes:
        self.times += 1
        return self.body


def a_position(*, listening: bool = True) -> Position:
    position = Position("postgresql://nowhere")
    position.listening = listening
    return position


async def test_an_answer_is_kept_until_the_read_model_moves_on() -> None:
    position, read = a_position(), Counted()
    answers = Answers(position)
    first = await answers.get("key", read)
    assert await answers.get("key", read) is first
    position.seq += 1
    await answers.get("key", read)
    assert read.times == 2


async def test_an_answer_that_was_read_while_the_position_moved_is_filed_under_the_older_one() -> None:
    position = a_position()
    answers = Answers(position)

    async def moved_meanwhile() -> bytes:
        position.seq += 1
        return b"maybe without the newest"

    again = Counted()
    await answers.get("key", moved_meanwhile)
    await answers.get("key", again)
    assert again.times == 1


async def test_nothing_is_kept_while_the_position_is_not_known() -> None:
    read = Counted()
    answers = Answers(a_position(listening=False))
    await answers.get("key", read)
    await answers.get("key", read)
    assert read.times == 2


async def test_what_is_kept_is_bounded_and_what_was_used_longest_ago_goes_first() -> None:
    answers = Answers(a_position(), entries_max=2)
    reads = {key: Counted(key.encode()) for key in "abc"}
    for key in "abac":  # b was used longest ago when c comes
        await answers.get(key, reads[key])
    for key in "acb":
        await answers.get(key, reads[key])
    assert {key: read.times for key, read in reads.items()} == {"a": 1, "b": 2, "c": 1}
    large = Counted(b"x" * (ENTRY_BYTES_MAX + 1))
    await answers.get("large", large)
    await answers.get("large", large)
    assert large.times == 2


async def test_two_bodies_have_two_tags_and_the_same_body_one() -> None:
    async def tag(body: bytes) -> str:
        return (await Answers(a_position()).get("key", Counted(body))).tag

    assert await tag(b"a") == await tag(b"a") != await tag(b"b")


@pytest.mark.parametrize(
    ("code", "body", "status", "word"),
    [
        ("404", b'{"code": "no_such_project", "message": "m"}', 404, "no_such_project"),
        ("409", b'{"code": "conflict", "message": "m"}', 409, "conflict"),
        ("429", b'{"code": "rate", "message": "m"}', 429, "rate"),
        ("400", b'{"code": "bad_body", "message": "m"}', 422, "bad_body"),
        ("409", b'{"code": "a word to come", "message": "m"}', 422, "a word to come"),
        ("403", b"", 403, "refused"),
        ("500", b"", 503, "unavailable"),
        ("x", b"not JSON", 503, "unavailable"),
    ],
)
def test_a_micro_services_error_becomes_what_http_says(code: str, body: bytes, status: int, word: str) -> None:
    header = f"NATS/1.0\r\nNats-Service-Error-Code: {code}\r\nNats-Service-Error: because\r\n\r\n".encode()
    with pytest.raises(HttpProblem) as refused:
        answer_of(Reply(b"", header, body))
    assert (refused.value.status, refused.value.code) == (status, word)
    assert refused.value.message in {"m", "because"}


@given(st.binary(max_size=200))
def test_whatever_answers_without_an_error_is_an_answer(data: bytes) -> None:
    assert isinstance(answer_of(Reply(b"", b"", data)), dict)
