"""The life of one incarnation, with a real server and real sandboxes."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from nats.errors import NoRespondersError

from agent.runners.shell import progress_in
from events.agent import (
    OUTPUT_BYTES_PER_S_MAX,
    AgentFinished,
    AgentProgressed,
    AgentRegistered,
    Capture,
    CaptureFailed,
    MachineSpec,
    Stop,
    WorkspaceCaptured,
    WorkspaceRestored,
)
from events.fresh import uuid7
from events.machine import InjectedFile
from events.project import CheckpointPolicy
from events.words import CheckpointType, CreationContext, MachineType
from snapshots.directory import DirectoryChunkStore
from snapshots.restore import restore
from tests.agent.machines import finished, report
from tests.agent.stack import Stack, stack_in
from tests.harness.places import free_port, short_directory
from tests.harness.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def output_of(stack: Stack, spec: MachineSpec, line: str) -> None:
    async def said() -> bool:
        return line in await stack.hub.text(spec.machine_id, spec.epoch)

    await eventually(said)


def files_of(stack: Stack, digest: str, directory: Path) -> dict[str, str]:
    with DirectoryChunkStore(stack.base.store) as store:
        restore(digest, directory, store)
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


async def test_a_goal_runs_in_the_restored_workspace_and_its_end_is_captured(stack: Stack, tmp_path: Path) -> None:
    spec = stack.base.spec(
        "cat README; echo more >> README; mkdir -p src; echo x > src/new; echo y > ~/.history", stack.server.url
    )
    end = await stack.run(spec)
    reports = await stack.hub.reports(spec.machine_id)
    kinds = [AgentRegistered, WorkspaceRestored, WorkspaceCaptured, WorkspaceCaptured, AgentFinished]
    assert [type(each) for each in reports] == kinds
    first, last = (each for each in reports if isinstance(each, WorkspaceCaptured))
    assert (first.parent_id, first.snapshot) == (spec.parent_checkpoint_id, stack.base.digest)
    assert first.creation_context == CreationContext.INITIAL_STATE
    assert (last.parent_id, last.checkpoint_type) == (first.checkpoint_id, CheckpointType.FINAL)
    assert (end.outcome, end.exit_code, end.checkpoint_id) == ("succeeded", 0, last.checkpoint_id)
    assert await stack.hub.text(spec.machine_id) == ["hello"]
    assert files_of(stack, last.snapshot, tmp_path / "out") == {
        "workspace/README": "hello\nmore\n",
        "workspace/src/new": "x\n",
        "home/.history": "y\n",
    }


async def test_the_next_machine_goes_on_from_the_final_checkpoint_home_included(stack: Stack) -> None:
    first = stack.base.spec("echo one > work; echo remembered > ~/.memory", stack.server.url)
    await stack.run(first)
    last = (await report(stack.hub, first.machine_id, WorkspaceCaptured)).snapshot
    second = stack.base.spec("cat work ~/.memory; echo two >> work && cat work", stack.server.url)
    await stack.run(second.model_copy(update={"snapshot": last}))
    assert await stack.hub.text(second.machine_id) == ["one", "remembered", "one", "two"]


async def test_a_failing_goal_says_its_exit_code_and_still_is_captured(stack: Stack) -> None:
    end = await stack.run(stack.base.spec("echo half > done; exit 3", stack.server.url))
    assert (end.outcome, end.exit_code) == ("failed", 3)
    assert end.checkpoint_id is not None


async def test_a_goal_ended_by_a_signal_says_which(stack: Stack) -> None:
    end = await stack.run(stack.base.spec("kill -SEGV $$", stack.server.url))
    assert (end.outcome, end.exit_code, end.reason) == ("failed", -11, "ended by SIGSEGV")


async def test_a_goal_of_a_hundred_kilobytes_runs(stack: Stack) -> None:
    goal = "# " + "é" * 50_000 + "\n" + "echo ran"
    _, lines = await stack.goal(goal)
    assert lines == ["ran"]


async def test_output_is_valid_text_whatever_the_goal_writes(stack: Stack) -> None:
    _, lines = await stack.goal(
        r"printf 'caf\xe9\n'; printf '\x1b[31mred\x1b[0m\n'; printf '10%%\r20%%\r\n'; printf 'no end'"
    )
    assert lines == ["caf�", "\\x1b[31mred\\x1b[0m", "10%", "20%", "no end"]


async def test_lines_are_numbered_without_a_gap_and_in_the_order_they_came(stack: Stack) -> None:
    spec = stack.base.spec("seq 3000; echo bad >&2", stack.server.url)
    await stack.run(spec)
    lines = await stack.hub.lines(spec.machine_id)
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["t"] for line in lines if line["s"] == "stdout"] == [str(n) for n in range(1, 3001)]
    assert {line["t"] for line in lines if line["s"] == "stderr"} == {"bad"}


async def test_a_flood_of_output_is_bounded_and_the_gap_is_said(stack: Stack) -> None:
    spec = stack.base.spec("timeout 2 yes 'flood flood flood flood flood flood'; echo after", stack.server.url)
    started = time.monotonic()
    end = await stack.run(spec)
    took_s = time.monotonic() - started
    lines = await stack.hub.lines(spec.machine_id)
    size_bytes = sum(len(str(line["t"])) for line in lines)
    assert end.outcome == "succeeded"
    assert size_bytes < OUTPUT_BYTES_PER_S_MAX * (took_s + 1)
    dropped = [str(line["t"]) for line in lines if line["s"] == "agent"]
    assert dropped
    assert all("bytes dropped" in text for text in dropped)
    assert sum(int(text.split()[1]) for text in dropped) > 1_000_000


async def test_a_line_without_end_is_cut_and_kept_small(stack: Stack) -> None:
    spec = stack.base.spec("head -c 60000 /dev/zero | tr '\\0' x", stack.server.url)
    await stack.run(spec)
    texts = await stack.hub.text(spec.machine_id)
    assert [len(text) for text in texts] == [16384, 16384, 16384, 60000 - 3 * 16384]


async def test_the_first_line_does_not_wait_for_the_next(stack: Stack) -> None:
    spec = stack.base.spec("echo first; sleep 30; echo second", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec, "first")
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_injected_files_are_there_before_the_goal_and_in_the_first_checkpoint(
    stack: Stack, tmp_path: Path
) -> None:
    files = (
        InjectedFile(path="README", text="replaced\n"),
        InjectedFile(path="bin/tool", text="echo tool\n", mode=0o755),
    )
    spec = stack.base.spec("cat README; stat -c %U bin/tool; bin/tool", stack.server.url, files=files)
    await stack.run(spec)
    assert await stack.hub.text(spec.machine_id) == ["replaced", "agent", "tool"]
    first = next(each for each in await stack.hub.reports(spec.machine_id) if isinstance(each, WorkspaceCaptured))
    assert files_of(stack, first.snapshot, tmp_path / "out")["workspace/README"] == "replaced\n"


async def test_an_injected_file_cannot_leave_through_a_link_in_the_base(stack: Stack, tmp_path: Path) -> None:
    outside = stack.directory / "outside"
    outside.mkdir(exist_ok=True)
    spec = stack.base.spec(f"ln -s {outside} way; ln -s {outside}/target file", stack.server.url)
    await stack.run(spec)
    hostile = (await report(stack.hub, spec.machine_id, WorkspaceCaptured)).snapshot
    for path in ("way/evil", "way/deep/evil"):
        attack = stack.base.spec("echo ran", stack.server.url, files=(InjectedFile(path=path, text="x"),))
        end = await stack.run(attack.model_copy(update={"snapshot": hostile}))
        assert end.outcome == "failed"
        assert "'way' is a link" in end.reason
    replace = stack.base.spec("cat file", stack.server.url, files=(InjectedFile(path="file", text="inside"),))
    await stack.run(replace.model_copy(update={"snapshot": hostile}))
    assert await stack.hub.text(replace.machine_id) == ["inside"]
    assert list(outside.iterdir()) == []


async def test_a_base_that_is_not_in_the_store_fails_the_machine_with_the_reason(stack: Stack) -> None:
    spec = stack.base.spec("true", stack.server.url).model_copy(update={"snapshot": "ab" * 32})
    end = await stack.run(spec)
    assert end.outcome == "failed"
    assert "abab" in end.reason


async def test_a_machine_type_without_a_runner_fails_with_the_reason(stack: Stack) -> None:
    spec = stack.base.spec("true", stack.server.url).model_copy(update={"machine_type": MachineType.AIDER})
    end = await stack.run(spec)
    assert end.outcome == "failed"
    assert "aider" in end.reason


async def test_a_capture_on_request_is_answered_and_reported_and_the_chain_goes_on_from_it(
    stack: Stack, tmp_path: Path
) -> None:
    spec = stack.base.spec("echo one > work; echo up; sleep 30", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec, "up")
    asked = Capture(
        checkpoint_id=uuid7(), checkpoint_type=CheckpointType.MANUAL, creation_context=CreationContext.REQUESTED
    )
    answers = await asyncio.gather(*(stack.hub.command(spec.machine_id, "Capture", asked) for _ in range(3)))
    assert [answer["report"] for answer in answers] == ["WorkspaceCaptured"] * 3
    assert {str(answer["checkpoint_id"]) for answer in answers} == {str(asked.checkpoint_id)}
    assert files_of(stack, str(answers[0]["snapshot"]), tmp_path / "out")["workspace/work"] == "one\n"
    await stack.hub.command(spec.machine_id, "Stop", Stop(grace_s=0))
    end = await finished(stack.hub, spec.machine_id)
    captured = [each for each in await stack.hub.reports(spec.machine_id) if isinstance(each, WorkspaceCaptured)]
    assert [each.checkpoint_id for each in captured][1:] == [asked.checkpoint_id, end.checkpoint_id]
    assert captured[-1].parent_id == asked.checkpoint_id
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_a_capture_asked_for_again_when_it_is_done_is_the_same_moment(stack: Stack) -> None:
    spec = stack.base.spec("echo up; while :; do date +%N > now; done", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec, "up")
    asked = Capture(
        checkpoint_id=uuid7(), checkpoint_type=CheckpointType.SAFETY, creation_context=CreationContext.BEFORE_RISK
    )
    first, again = [await stack.hub.command(spec.machine_id, "Capture", asked) for _ in range(2)]
    assert first == again
    await stack.hub.command(spec.machine_id, "Stop", Stop(grace_s=0))
    await finished(stack.hub, spec.machine_id)
    captured = [each for each in await stack.hub.reports(spec.machine_id) if isinstance(each, WorkspaceCaptured)]
    assert [each.checkpoint_id for each in captured].count(asked.checkpoint_id) == 1
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_a_capture_asked_for_at_once_waits_until_the_workspace_stands(stack: Stack, tmp_path: Path) -> None:
    spec = stack.base.spec("sleep 30", stack.server.url)
    asked = Capture(
        checkpoint_id=uuid7(), checkpoint_type=CheckpointType.MANUAL, creation_context=CreationContext.REQUESTED
    )
    await stack.hypervisor.create(spec)

    async def answered() -> dict[str, object] | None:
        try:
            return await stack.hub.command(spec.machine_id, "Capture", asked)
        except NoRespondersError:
            return None

    answer = await eventually(answered, poll_s=0.001)
    assert answer is not None
    assert files_of(stack, str(answer["snapshot"]), tmp_path / "out") == {"workspace/README": "hello\n"}
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_a_capture_while_the_goal_writes_is_one_moment(stack: Stack, tmp_path: Path) -> None:
    if not list(Path("/sys/fs/cgroup").glob("**/cgroup.freeze")):
        pytest.skip("this host has no freezer")
    goal = "i=0; echo 0 > a; echo 0 > b; echo up; while :; do i=$((i + 1)); echo $i > a; echo $i > b; done"
    spec = stack.base.spec(goal, stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec, "up")
    for n in range(5):
        asked = Capture(
            checkpoint_id=uuid7(), checkpoint_type=CheckpointType.MANUAL, creation_context=CreationContext.REQUESTED
        )
        answer = await stack.hub.command(spec.machine_id, "Capture", asked)
        files = files_of(stack, str(answer["snapshot"]), tmp_path / str(n))
        a, b = files["workspace/a"].strip(), files["workspace/b"].strip()
        assert a == "" or b == "" or int(a) - int(b) in {0, 1}
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_what_changes_is_captured_by_interval_and_what_does_not_is_not(stack: Stack) -> None:
    policy = CheckpointPolicy(at_start=False, interval_s=5)
    spec = stack.base.spec("sleep 1; echo x > new; sleep 30", stack.server.url, policy=policy)
    await stack.hypervisor.create(spec)
    taken = await report(stack.hub, spec.machine_id, WorkspaceCaptured)
    assert (taken.creation_context, taken.added) == (CreationContext.TIMER, 1)
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_a_policy_without_captures_takes_none(stack: Stack) -> None:
    spec = stack.base.spec("echo x > y", stack.server.url, policy=CheckpointPolicy(at_start=False, at_end=False))
    end = await stack.run(spec)
    assert end.checkpoint_id is None
    assert not [each for each in await stack.hub.reports(spec.machine_id) if isinstance(each, WorkspaceCaptured)]


async def test_a_capture_that_cannot_be_done_is_said_and_the_machine_still_ends(stack: Stack) -> None:
    goal = "mkdir -p $(printf 'd/%.0s' $(seq 400))"
    spec = stack.base.spec(goal, stack.server.url)
    end = await stack.run(spec)
    assert (end.outcome, end.checkpoint_id) == ("succeeded", None)
    failed = await report(stack.hub, spec.machine_id, CaptureFailed)
    assert "depth" in failed.reason


async def test_stopping_before_the_goal_has_started_ends_it_cancelled(stack: Stack) -> None:
    spec = stack.base.spec("echo up; sleep 100", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec, "up")
    await stack.hub.command(spec.machine_id, "Stop", Stop(reason="not needed", grace_s=0, seal=False))
    end = await finished(stack.hub, spec.machine_id)
    assert (end.outcome, end.reason, end.checkpoint_id) == ("cancelled", "not needed", None)
    await stack.hypervisor.destroy(spec.machine_id, 1)


@pytest.mark.parametrize(("name", "body"), [("Dance", b"{}"), ("Capture", b"{}"), ("Capture", b"\xff"), ("Stop", b"[")])
async def test_a_command_that_makes_no_sense_is_answered_and_harms_nothing(
    stack: Stack, name: str, body: bytes
) -> None:
    spec = stack.base.spec("echo up; sleep 100", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec, "up")
    answer = await stack.hub.nc.request(f"cmd.webshop.{spec.machine_id}.1.{name}", body, timeout=5)
    assert "error" in json.loads(answer.data)
    await stack.hub.command(spec.machine_id, "Stop", Stop(grace_s=0))
    assert (await finished(stack.hub, spec.machine_id)).outcome == "cancelled"
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_a_subject_that_is_not_utf8_does_not_stop_an_agent(stack: Stack) -> None:
    spec = stack.base.spec("echo up; sleep 100", stack.server.url)
    await stack.hypervisor.create(spec)
    await output_of(stack, spec, "up")
    port = int(stack.server.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
    writer.write(b"PUB cmd.webshop." + str(spec.machine_id).encode() + b".1.\xff\xfe 2\r\n{}\r\nPING\r\n")
    await writer.drain()
    while b"PONG" not in await reader.readline():
        pass
    writer.close()
    assert await stack.hub.command(spec.machine_id, "Stop", Stop(grace_s=0)) == {}
    await finished(stack.hub, spec.machine_id)
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_an_agent_beats(stack: Stack) -> None:
    spec = stack.base.spec("sleep 100", stack.server.url)
    beats = await stack.hub.nc.subscribe(f"beat.webshop.{spec.machine_id}.1")
    await stack.hub.nc.flush()
    await stack.hypervisor.create(spec)
    assert (await beats.next_msg(15)).data == b""
    await beats.unsubscribe()
    await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_progress_that_a_script_says_is_reported(stack: Stack) -> None:
    spec = stack.base.spec("echo '::progress 40% half of it'", stack.server.url)
    await stack.run(spec)
    assert await report(stack.hub, spec.machine_id, AgentProgressed) == AgentProgressed(
        message="half of it", percent=40
    )


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("::progress 7 x", AgentProgressed(message="x", percent=7)),
        ("::progress linking", AgentProgressed(message="linking")),
        ("::progress 101% x", None),
        ("progress 5 x", None),
        ("::progress", None),
    ],
)
async def test_what_counts_as_progress(line: str, progress: AgentProgressed | None) -> None:
    assert progress_in(line) == progress


async def test_work_goes_on_without_the_hub_and_is_told_when_it_is_back() -> None:
    with short_directory() as directory:
        async with stack_in(directory, port=free_port()) as stack:
            spec = stack.base.spec("echo up; sleep 1; seq 5; echo x > done", stack.server.url)
            await stack.hypervisor.create(spec)
            await output_of(stack, spec, "up")
            stack.server.kill()
            await stack.server.ended()
            done = directory / "data" / "machines" / str(spec.machine_id) / "1" / "workspace" / "done"
            await eventually(done.exists)
            await stack.server.start()
            end = await finished(stack.hub, spec.machine_id, timeout_s=30)
            assert (end.outcome, end.checkpoint_id is not None) == ("succeeded", True)
            assert await stack.hub.text(spec.machine_id) == ["up", "1", "2", "3", "4", "5"]


async def test_an_agent_without_a_hub_for_too_long_seals_and_ends_itself() -> None:
    with short_directory() as directory:
        async with stack_in(directory, agent_options='{"hub_lost_s": 0.5}') as stack:
            spec = stack.base.spec("echo $$ > up; sleep 1000", "nats://127.0.0.1:1")
            await stack.hypervisor.create(spec)
            gone = await anext(aiter(stack.hypervisor.exits()))
            assert (gone.machine_id, gone.exit_code) == (spec.machine_id, 4)
            await stack.hypervisor.destroy(spec.machine_id, 1)


async def test_a_machine_told_to_park_takes_a_parking_checkpoint_whatever_its_policy_says(stack: Stack) -> None:
    spec = stack.base.spec("echo half > work; echo begun; sleep 60", stack.server.url)
    spec = spec.model_copy(update={"policy": CheckpointPolicy(at_end=False)})
    await stack.hypervisor.create(spec)
    await output_of(stack, spec, "begun")
    stop = Stop(reason="webshop has no money left", outcome="parked", grace_s=0.5)
    await stack.hub.command(spec.machine_id, "Stop", stop)
    end = await finished(stack.hub, spec.machine_id)
    last = [each for each in await stack.hub.reports(spec.machine_id) if isinstance(each, WorkspaceCaptured)][-1]
    assert (end.outcome, end.reason, end.checkpoint_id) == ("parked", "webshop has no money left", last.checkpoint_id)
    assert (last.checkpoint_type, last.creation_context) == (CheckpointType.PARKING, CreationContext.MID_EXECUTION)
    await stack.hypervisor.destroy(spec.machine_id, 1)
