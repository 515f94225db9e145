"""A tool is seen in the sandbox where it is on the host, read-only; what is private is never shown."""

from pathlib import Path

import pytest

from events.agent import AgentTool
from hypervisors.local.mounts import checked
from hypervisors.port import Refused
from tests.agent.stack import Stack


def tool_in(directory: Path) -> Path:
    (directory / "bin").mkdir(parents=True)
    script = directory / "bin" / "tool"
    script.write_text("#!/bin/sh\necho tool $1\n")
    script.chmod(0o755)
    return script


@pytest.mark.asyncio(loop_scope="module")
async def test_a_tool_of_a_private_directory_runs_at_its_own_place_and_cannot_be_changed(stack: Stack) -> None:
    private = stack.directory / "private"
    script = tool_in(private / "tools")
    private.chmod(0o700)
    (private / "secret").write_text("hidden")
    spec = stack.base.spec(
        f"{script} one; echo x >> {script} || echo kept; cat {private}/secret || echo none; ls {private}",
        stack.server.url,
    )
    tool = AgentTool(command=(str(script),), mounts=(str(private / "tools"),))
    await stack.run(spec.model_copy(update={"tool": tool}))
    assert await stack.hub.text(spec.machine_id) == ["tool one", "kept", "none", "tools"]


@pytest.mark.asyncio(loop_scope="module")
async def test_one_file_and_a_directory_in_it_are_shown_too(stack: Stack) -> None:
    script = tool_in(stack.directory / "single")
    tool = AgentTool(command=(str(script),), mounts=(str(script), "/usr/bin"))
    spec = stack.base.spec(f"{script} two", stack.server.url)
    await stack.run(spec.model_copy(update={"tool": tool}))
    assert await stack.hub.text(spec.machine_id) == ["tool two"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_machine_whose_tool_would_show_the_hubs_data_is_refused(stack: Stack) -> None:
    tool = AgentTool(command=("x",), mounts=(str(stack.directory / "data" / "machines"),))
    with pytest.raises(Refused, match="what this hub keeps"):
        await stack.hypervisor.create(stack.base.spec("x", stack.server.url).model_copy(update={"tool": tool}))


@pytest.mark.parametrize(
    "path",
    ["/", "/root", "/home", "/etc/ssl", "/proc/self", "/run/x", "relative", "/opt", "/opt/../etc", "/nowhere/at/all"],
)
def test_what_is_private_or_no_place_is_never_mounted(path: str) -> None:
    with pytest.raises(Refused):
        checked([path], [])


def test_neither_the_data_directory_nor_what_holds_it_nor_a_part_of_it_is_mounted(tmp_path: Path) -> None:
    data = tmp_path / "hub" / "data"
    (data / "keys").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    for path in (data, data.parent, data / "keys", tmp_path / "link"):
        with pytest.raises(Refused):
            checked([str(path)], [data])


def test_credentials_of_a_home_are_never_mounted(tmp_path: Path) -> None:
    for name in (".ssh", ".aws/sso", ".config"):
        (tmp_path / name).mkdir(parents=True)
        with pytest.raises(Refused, match="credentials"):
            checked([str(tmp_path / name)], [])


def test_what_the_sandbox_sees_anyway_is_not_mounted_again(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    wanted = ["/usr/bin", str(tmp_path / "a" / "b"), str(tmp_path / "a"), str(tmp_path / "a")]
    assert checked(wanted, []) == (tmp_path / "a", tmp_path / "a" / "b")
