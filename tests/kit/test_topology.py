"""The topology: what is missing is made, what has drifted is refused field by field, nothing is reset silently."""

import asyncio
from pathlib import Path

import pytest

from cli.stack.nats import EmbeddedNats, NatsConfig
from schema.streams import IN, LOG, MIB, OUTPUT, TIMERS, Json, Sizes, Stream, streams
from services.kit import durable, topology
from services.kit.bus import Bus, BusSettings
from services.kit.errors import Refused, Transient
from services.kit.settings import TopologySettings
from services.kit.topology import Drifted, Unsafe, compare
from tests.harness import free_port
from tests.kit.conftest import connect

BY_NAME = {stream.name: stream for stream in streams()}


async def alter(bus: Bus, stream: Stream, **changes: Json) -> None:
    await bus.wire.api(f"STREAM.UPDATE.{stream.name}", {**stream.config(), **changes})


async def test_applying_twice_changes_nothing_the_second_time(bus: Bus) -> None:
    await bus.js.publish("in.x.y", b"{}")
    assert await topology.apply(bus) == []
    await topology.check(bus)
    assert (await bus.js.stream_info(IN)).state.messages == 1


async def test_two_that_apply_at_once_agree(server: EmbeddedNats) -> None:
    async with connect(server, "one") as one, connect(server, "two") as two:
        await asyncio.gather(topology.apply(one), topology.apply(two))
        await topology.check(one)


async def test_a_missing_stream_or_consumer_is_said_and_made(bus: Bus) -> None:
    await bus.wire.api("STREAM.DELETE.REJECTED")
    await bus.wire.api(f"CONSUMER.DELETE.{LOG}.budget")
    with pytest.raises(Drifted) as drift:
        await topology.check(bus)
    assert {difference.where for difference in drift.value.differences} == {"REJECTED", "LOG/budget"}
    assert await topology.apply(bus) == ["created consumer budget of LOG", "created stream REJECTED"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (LOG, {"republish": None}),
        (LOG, {"allow_direct": False}),
        (LOG, {"discard": "old"}),
        (LOG, {"allow_msg_ttl": True}),
        (LOG, {"subjects": ["av.>", "avx.>"]}),
        (LOG, {"max_msgs": 5}),
        (LOG, {"max_msgs_per_subject": 1}),
        (LOG, {"sources": None}),
        (LOG, {"allow_atomic": False}),
        (IN, {"discard": "old"}),
    ],
)
async def test_an_unsafe_configuration_is_refused_and_left_alone(bus: Bus, name: str, changes: dict[str, Json]) -> None:
    await alter(bus, BY_NAME[name], **changes)
    before = (await bus.wire.api(f"STREAM.INFO.{name}"))["config"]
    (field,) = changes
    for act in (topology.check, topology.apply):
        with pytest.raises(Drifted, match=f"{name}: {field} should be"):
            await act(bus)
    assert (await bus.wire.api(f"STREAM.INFO.{name}"))["config"] == before


async def test_acknowledging_before_it_is_on_disk_is_refused(server: EmbeddedNats) -> None:
    async with connect(server) as bus:
        log = BY_NAME[LOG].config()
        log.pop("allow_atomic")
        log.pop("sources")
        await bus.wire.api(f"STREAM.CREATE.{LOG}", {**log, "persist_mode": "async"})
        with pytest.raises(Drifted, match="LOG: persist_mode should be None, is 'async'"):
            await topology.apply(bus)


async def test_sizes_may_grow_but_never_below_what_is_held(bus: Bus) -> None:
    grown = Sizes(log_bytes=5000 * MIB, rejected_bytes=32 * MIB)
    done = await topology.apply(bus, grown)
    assert [line.split(":")[0] for line in done] == ["changed LOG", "changed REJECTED"]
    await topology.check(bus, grown)
    await bus.js.publish("in.x", b"x" * 100_000)
    with pytest.raises(Drifted, match="IN: max_bytes"):
        await topology.apply(bus, Sizes(log_bytes=5000 * MIB, rejected_bytes=32 * MIB, in_bytes=1000))


async def test_a_consumer_with_other_filters_is_set_right(bus: Bus) -> None:
    wanted = next(each for each in BY_NAME[LOG].durables if each.name == "issuer")
    config: dict[str, Json] = {**wanted.config(), "filter_subject": "av.other.>", "max_ack_pending": 1}
    await bus.wire.api(f"CONSUMER.CREATE.{LOG}.issuer", {"stream_name": LOG, "config": config, "action": "update"})
    with pytest.raises(Drifted, match="LOG/issuer: filter_subject"):
        await topology.check(bus)
    assert len(await topology.apply(bus)) == 2


async def test_too_little_storage_is_said_with_the_remedy(tmp_path: Path) -> None:
    async with (
        EmbeddedNats(tmp_path, NatsConfig(file_store_bytes_max=100 * MIB)) as server,
        connect(server) as bus,
    ):
        with pytest.raises(Refused, match=r"could not create stream LOG: insufficient storage.*AUTOVIBE_LOG_BYTES"):
            await topology.apply(bus)


async def test_a_server_that_syncs_late_is_not_called_durable(tmp_path: Path, server: EmbeddedNats) -> None:
    class Lazy(NatsConfig):
        def text(self, directory: Path) -> str:
            return super().text(directory).replace("sync_interval: always", "sync_interval: 1s")

    for config, safe in ((NatsConfig, True), (Lazy, False)):
        port = free_port()
        async with EmbeddedNats(tmp_path / str(safe), config(monitor_port=port)):
            if safe:
                await durable.check_by_monitor(f"http://127.0.0.1:{port}")
            else:
                with pytest.raises(Unsafe, match="acknowledges before its data is on disk"):
                    await durable.check_by_monitor(f"http://127.0.0.1:{port}")
    with pytest.raises(Transient):
        await durable.check_by_monitor(f"http://127.0.0.1:{free_port()}")


async def test_the_system_account_tells_how_the_server_syncs(tmp_path: Path) -> None:
    class WithSystem(NatsConfig):
        def text(self, directory: Path) -> str:
            return super().text(directory) + SYSTEM

    async with EmbeddedNats(tmp_path, WithSystem()) as server:
        url = server.url.replace("//", "//sys:sys@")
        await durable.check_by_system(BusSettings(nats_url=url), None)
        assert not await durable.check(TopologySettings(nats_url=url))


async def test_sizes_come_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOVIBE_LOG_BYTES", "12345678")
    assert TopologySettings().sizes() == Sizes(log_bytes=12345678)


SYSTEM = """
accounts {
  SYS { users: [{user: sys, password: sys}] }
  HUB { jetstream: enabled, users: [{user: hub, password: hub}] }
}
system_account: SYS
"""


def test_what_the_server_leaves_out_is_off() -> None:
    wanted: dict[str, Json] = {"a": False, "b": None, "c": 0, "d": [], "e": 1}
    assert compare("S", wanted, {"e": 1, "metadata": {"x": "y"}, "max_msgs": -1, "sealed": False}) == []
    assert [difference.field for difference in compare("S", wanted, {"e": 2, "sealed": True})] == ["e", "sealed"]


async def test_output_may_be_lost_and_nothing_else_may() -> None:
    assert [stream.name for stream in streams() if stream.persist_async] == [OUTPUT]
    assert [stream.name for stream in streams() if stream.discard == "old"] == [TIMERS, OUTPUT, "REJECTED"]
