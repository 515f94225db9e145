"""The topology as data: bounded, complete, and in an order in which it can be made."""

import pytest

from events import address
from events.registry import EVENTS
from schema.streams import LOG, NANOSECONDS, TIMERS, Sizes, Stream, streams

ALL = streams()


@pytest.mark.parametrize("stream", ALL, ids=lambda stream: stream.name)
def test_every_stream_is_bounded(stream: Stream) -> None:
    config = stream.config()
    for field in ("max_bytes", "max_msg_size", "max_consumers", "duplicate_window"):
        assert int(str(config[field])) > 0, field


def test_no_subject_belongs_to_two_streams() -> None:
    heads = [subject.split(".")[0] for stream in ALL for subject in stream.subjects if stream.name != TIMERS]
    assert len(heads) == len(set(heads))


def test_the_log_is_for_ever() -> None:
    log = next(stream for stream in ALL if stream.name == LOG)
    config = log.config()
    assert (config["max_age"], config["discard"], config["deny_delete"], config["deny_purge"]) == (0, "new", True, True)
    assert not any((log.allow_rollup_hdrs, log.allow_msg_ttl, log.allow_msg_schedules, log.persist_async))


def test_what_is_copied_from_is_made_first() -> None:
    names = [stream.name for stream in ALL]
    for stream in ALL:
        for source in stream.sources:
            assert names.index(source.stream) < names.index(stream.name)


def test_the_sizes_are_the_settings() -> None:
    sized = {stream.name: stream.bytes_max for stream in streams(Sizes(log_bytes=7, dead_bytes=8))}
    assert (sized[LOG], sized["DEAD"]) == (7, 8)
    assert {stream.replicas for stream in streams(replicas=3) if not stream.persist_async} == {3}


def test_durables_name_events_that_exist() -> None:
    for stream in ALL:
        for durable in stream.durables:
            for wanted in durable.filters:
                if wanted.startswith("av.") and not wanted.endswith(">"):
                    prefix, _, aggregate, _, type_name = wanted.split(".")
                    assert prefix == address.LOG_PREFIX
                    assert EVENTS[type_name].aggregate == aggregate


def test_durables_have_names_of_their_own_and_wait_long_enough() -> None:
    durables = [durable for stream in ALL for durable in stream.durables]
    assert len({durable.name for durable in durables}) == len(durables)
    assert all(int(str(durable.config()["ack_wait"])) >= 30 * NANOSECONDS for durable in durables)
