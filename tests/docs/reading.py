"""The documents as a reader takes them in: links, code, command lines."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LATER = frozenset({"docs/benchmarks.md"})
"""Written when it has been measured; until then the link to it leads nowhere."""

_FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<text>.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_URL = re.compile(r"[a-z]+://(?:[^/\s@]*@)?([\w.-]+)")


@dataclass(frozen=True, slots=True)
class Document:
    """One Markdown file."""

    path: Path
    """Below the root."""
    text: str

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """Language and text of every fenced block."""
        return [(found["language"], found["text"]) for found in _FENCE.finditer(self.text)]

    @property
    def prose(self) -> str:
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        return _LINK.findall(self.prose)

    @property
    def anchors(self) -> set[str]:
        return {_slug(heading) for heading in _HEADING.findall(self.prose)}

    @property
    def hosts(self) -> set[str]:
        return set(_URL.findall(self.text))

    def typed(self) -> Iterator[str]:
        """Return every `autovibe …` that a reader is shown to type, whole."""
        for _, block in self.blocks:
            for line in block.replace("\\\n", " ").splitlines():
                yield from _typed_in(line.strip().removeprefix("$ "))

    def mentioned(self) -> Iterator[str]:
        """Return every `autovibe …` in running text; often without its arguments."""
        for found in _INLINE.findall(self.prose):
            if found.startswith("autovibe ") and "<" not in found:
                yield found


def documents() -> list[Document]:
    files = [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "examples" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
    return [Document(file.relative_to(ROOT), file.read_text("utf-8")) for file in files]


def words(line: str) -> list[str]:
    """Split as a shell would; what stands for something left out is no argument."""
    return [word for word in shlex.split(line, comments=True) if word != "…"]


def _typed_in(line: str) -> Iterator[str]:
    inner = re.search(r"\$\((autovibe [^()]*)\)", line)
    if line.startswith("autovibe "):
        yield line
    elif inner:
        yield inner[1]


def _slug(heading: str) -> str:
    """The anchor that the common renderers give a heading."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower())
    return kept.replace(" ", "-")
