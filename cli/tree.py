"""Drawing the checkpoint tree: a trunk that runs down, branches that stand off it."""

from collections import defaultdict
from collections.abc import Iterator

from cli import console
from cli.hub import Json

GOAL_CHARS_MAX = 44


def drawn(nodes: list[Json]) -> Iterator[str]:
    """Yield one line per checkpoint, parents before children; a node whose parent is not there is a root.

    The child that leads to the current checkpoint, else the first one, goes on in its parent's column and the others
    branch off, so that a long line of work stays a straight line however many checkpoints it has.
    """
    here = {str(node["uuid"]) for node in nodes}
    children: dict[str, list[Json]] = defaultdict(list)
    roots: list[Json] = []
    for node in nodes:
        parent = str(node["parent_checkpoint_uuid"])
        (children[parent] if parent in here else roots).append(node)
    trunk = _trunk(nodes)
    waiting = [(root, "") for root in reversed(roots)]
    while waiting:
        node, indent = waiting.pop()
        yield indent + _line(node)
        following = sorted(children[str(node["uuid"])], key=lambda child: str(child["uuid"]) not in trunk)
        # The trunk comes last, so that a branch is drawn where it leaves and the trunk goes on below it.
        for position, child in enumerate(following):
            waiting.append((child, indent if position == 0 else indent + "│ "))


def _trunk(nodes: list[Json]) -> set[str]:
    """Return the current checkpoint and what it came from."""
    parents = {str(node["uuid"]): str(node["parent_checkpoint_uuid"]) for node in nodes}
    found: set[str] = set()
    for node in nodes:
        name = str(node["uuid"]) if node["current"] else ""
        while name in parents and name not in found:
            found.add(name)
            name = parents[name]
    return found


def _line(node: Json) -> str:
    mark = "◉" if node["current"] else ("○" if node["purged_at"] else "●")
    files: Json = node["file_manifest"] or {}
    told = "  ".join(
        part
        for part in (
            f"{mark} {node['uuid']}",
            f"{node['checkpoint_type']}/{node['creation_context']}",
            f"+{files.get('added', 0)} ~{files.get('changed', 0)} -{files.get('removed', 0)}",
            console.word(str(node["verification_status"])),
            _goal(node),
        )
        if part
    )
    return told + (console.paint("  ← next goal starts here", console.BOLD) if node["current"] else "")


def _goal(node: Json) -> str:
    if node["checkpoint_type"] != "final" or not node["goal"]:
        return ""
    goal = console.printable(console.first_line(node["goal"], GOAL_CHARS_MAX))
    return f"“{goal}” {console.word(str(node['outcome'] or ''))} {console.money(node['cost_cad'])}"
