"""Events are found in a stream however it is cut into chunks, and nothing in it breaks the reader."""

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.sse import EVENT_BYTES_MAX, SseReader

EVENTS = b'event: a\ndata: {"x": 1}\n\ndata: 2\r\n\r\n: comment\n\ndata: 3\ndata: 4\n\n'
CUTS = st.lists(st.integers(0, 300), max_size=40)


def read(stream: bytes, cuts: list[int]) -> tuple[list[tuple[bytes, int, int]], SseReader]:
    reader, at, found = SseReader(), 0, list[tuple[bytes, int, int]]()
    for cut in [*sorted(cuts), len(stream)]:
        found += [(event.data, event.start, event.end) for event in reader.feed(stream[at:cut])]
        at = max(at, min(cut, len(stream)))
    return found, reader


@given(cuts=CUTS)
def test_the_same_events_come_of_any_cut_into_chunks(cuts: list[int]) -> None:
    found, reader = read(EVENTS, cuts)
    assert [data for data, _, _ in found] == [b'{"x": 1}', b"2", b"", b"3\n4"]
    assert b"".join(EVENTS[start:end] for _, start, end in found) == EVENTS
    assert reader.position == len(EVENTS)


LINES = st.tuples(
    st.sampled_from((b"event: ", b"data: ", b"data:", b": ", b"id: ", b"")), st.sampled_from((b"a", b"{} "))
)


@given(lines=st.lists(LINES, min_size=1, max_size=4), end=st.sampled_from((b"\n", b"\r\n")))
def test_the_data_is_all_data_lines_whatever_stands_around_them(lines: list[tuple[bytes, bytes]], end: bytes) -> None:
    found, _ = read(b"".join(name + text + end for name, text in lines) + end, [])
    data = [(name + text)[5:].removeprefix(b" ") for name, text in lines if name.startswith(b"data:")]
    assert [said for said, _, _ in found] == [b"\n".join(data)]


@given(stream=st.binary(max_size=300), cuts=CUTS)
def test_whatever_comes_positions_stay_within_the_stream(stream: bytes, cuts: list[int]) -> None:
    found, reader = read(stream, cuts)
    assert all(0 <= start < end <= len(stream) for _, start, end in found)
    assert 0 <= reader.position <= len(stream)


def test_an_event_that_is_too_long_is_not_kept_and_the_next_one_is_read() -> None:
    reader = SseReader()
    assert reader.feed(b"data: " + b"x" * EVENT_BYTES_MAX) == []
    assert reader.skipped == 1
    assert reader.feed(b"xxx\n\ndata: 1\n\n")[0].data == b"1"
