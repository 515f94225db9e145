"""Lines on their way to the hub, whatever the runner writes."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from agent.output import Assembler, escape, pieces
from events.agent import OUTPUT_LINE_BYTES_MAX


def lines_of(*parts: bytes) -> list[bytes]:
    assembler = Assembler()
    return [line for part in parts for line in assembler.feed(part)] + assembler.end()


def test_lines_end_at_lf_crlf_or_a_lone_cr() -> None:
    assert lines_of(b"a\nb\r\n10%\r20%\rc") == [b"a", b"b", b"10%", b"20%", b"c"]


def test_a_crlf_cut_in_two_is_one_line_end() -> None:
    assert lines_of(b"a\r", b"\nb\n") == [b"a", b"b"]


@given(
    st.lists(st.sampled_from([b"a", "é".encode(), "🙂".encode(), b"\n", b"\r\n", b"\r", b"\xff", b""])),
    st.integers(1, 7),
)
def test_lines_do_not_depend_on_how_the_pipe_cuts_them(parts: list[bytes], size: int) -> None:
    whole = b"".join(parts)
    cut = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert lines_of(*cut) == lines_of(whole)


@given(st.binary(max_size=5 * OUTPUT_LINE_BYTES_MAX), st.integers(1, 4 * OUTPUT_LINE_BYTES_MAX))
def test_an_unfinished_line_never_grows_beyond_its_bound(data: bytes, size: int) -> None:
    assembler = Assembler()
    for at in range(0, len(data), size):
        for line in assembler.feed(data[at : at + size]):
            assert all(len(piece.encode()) <= OUTPUT_LINE_BYTES_MAX for piece in pieces(line))
        assert assembler.held_bytes <= OUTPUT_LINE_BYTES_MAX + 1


def test_a_long_line_is_cut_between_characters() -> None:
    text = "é🙂" * 10_000
    cut = [piece for line in lines_of(text.encode()) for piece in pieces(line)]
    assert "".join(cut) == text
    assert all(len(piece.encode()) <= OUTPUT_LINE_BYTES_MAX for piece in cut)


@given(st.binary(max_size=200))
def test_any_bytes_become_text_without_control_characters(raw: bytes) -> None:
    for piece in pieces(raw):
        piece.encode()
        assert not [c for c in piece if unicodedata.category(c) in {"Cc", "Cs"} and c != "\t"]


def test_a_terminal_sequence_is_shown_and_not_obeyed() -> None:
    assert escape("\x1b]0;owned\x07 \u202eevil \x9b2J") == "\\x1b]0;owned\\x07 \\u202eevil \\x9b2J"


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert pieces(b"caf\xe9 \xff\xfe") == ["caf� ��"]
