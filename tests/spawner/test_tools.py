"""Where the agents' programs are looked for, and what is said when they are not there."""

import json
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import pytest

from events.words import MachineType
from services.spawner.tools import ToolMissing, Tools, look


@dataclass(frozen=True)
class Places:
    claude_code: str = ""
    qwen_code: str = ""
    node: str = ""
    aider: str = ""


def program(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def qwen(root: Path, version: str) -> Path:
    package = root / "node_modules" / "@qwen-code" / "qwen-code"
    package.mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": version}))
    return program(package / "cli-entry.js", "")


def aider(root: Path, version: str) -> Path:
    (root / "lib" / "python3.11" / "site-packages" / f"aider_chat-{version}.dist-info").mkdir(parents=True)
    (root / "pyvenv.cfg").write_text("home = /opt/python-3.11/bin\n")
    return program(root / "bin" / "aider", "")


def test_a_setting_names_the_program_and_its_package_is_shown_with_node(tmp_path: Path) -> None:
    entry, node = qwen(tmp_path, "0.24.4"), program(tmp_path / "node", "v22.3.0")
    tool = Tools(Places(qwen_code=str(entry), node=str(node))).find(MachineType.QWEN_CODER)
    assert tool is not None
    assert tool.command == (str(node), str(entry))
    assert tool.mounts == (str(node), str(tmp_path / "node_modules"))
    assert tool.version == "0.24.4"


def test_without_a_setting_the_program_on_the_path_is_taken_where_its_link_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "qwen").symlink_to(qwen(tmp_path, "0.25.0"))
    program(tmp_path / "bin" / "node", "v24.0.0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    tool = Tools(Places()).find(MachineType.QWEN_CODER)
    assert tool is not None
    assert tool.command[1].endswith("cli-entry.js")


@pytest.mark.parametrize(
    ("version", "node", "what"), [("0.15.10", "v22.0.0", "0.15.10"), ("0.24.4", "v20.20.2", "20.20.2")]
)
def test_what_is_too_old_is_refused_with_both_versions(tmp_path: Path, version: str, node: str, what: str) -> None:
    places = Places(qwen_code=str(qwen(tmp_path, version)), node=str(program(tmp_path / "node", node)))
    with pytest.raises(ToolMissing, match=what):
        Tools(places).find(MachineType.QWEN_CODER)


def test_aider_brings_its_environment_and_the_interpreter_that_it_borrows(tmp_path: Path) -> None:
    tool = Tools(Places(aider=str(aider(tmp_path, "0.86.2")))).find(MachineType.AIDER)
    assert tool is not None
    assert str(tmp_path) in tool.mounts
    assert "/opt/python-3.11" in tool.mounts
    assert "/usr" not in tool.mounts


def test_a_script_is_not_the_native_program_of_claude_code(tmp_path: Path) -> None:
    script = program(tmp_path / "claude", "2.1.329")
    with pytest.raises(ToolMissing, match="not the native program"):
        Tools(Places(claude_code=str(script))).find(MachineType.CLAUDE_CODE)


def test_a_native_program_says_its_version_itself(tmp_path: Path) -> None:
    """`/bin/echo --version` stands for it: native, with a version of its own scheme, which is newer than is needed."""
    echo = tmp_path / "claude"
    shutil.copy2("/bin/echo", echo)
    tool = Tools(Places(claude_code=str(echo))).find(MachineType.CLAUDE_CODE)
    assert tool is not None
    assert tool.mounts == (str(echo),)


def test_every_absence_says_what_to_install_and_which_setting_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = {each.machine_type: each for each in look(Places())}
    assert all(each.tool is None for each in found.values())
    for machine_type, package, setting in (
        (MachineType.CLAUDE_CODE, "@anthropic-ai/claude-code-linux-x64", "AUTOVIBE_CLAUDE_CODE"),
        (MachineType.QWEN_CODER, "@qwen-code/qwen-code", "AUTOVIBE_QWEN_CODE"),
        (MachineType.AIDER, "aider-chat", "AUTOVIBE_AIDER"),
    ):
        assert package in found[machine_type].remedy
        assert setting in found[machine_type].remedy


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolMissing, match="nowhere"):
        Tools(Places(aider=str(tmp_path / "nowhere"))).find(MachineType.AIDER)
