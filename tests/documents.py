"""The documents of the project: their blocks of code, links and headings."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "docs"
README: Final = ROOT / "README.md"
USER_DOCUMENTS: Final = [README, *sorted(DOCS.glob("*.md"))]
_BLOCK: Final = re.compile(
    r"^(?:<!-- not run: (?P<reason>\S[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of code.

    Args:
        place: File and line.
        reason: Why no test runs it, from the comment above it; "" if one does.
    """

    place: str
    language: str
    code: str
    reason: str


@cache
def read(path: Path) -> str:
    return path.read_text()


def find_blocks(path: Path) -> list[Block]:
    text = read(path)
    return [
        Block(
            place=f"{path.name}:{text.count(chr(10), 0, found.start('language')) + 1}",
            language=found["language"],
            code=found["code"],
            reason=found["reason"] or "",
        )
        for found in _BLOCK.finditer(text)
    ]


def find_links(text: str) -> list[str]:
    """Return the targets of links and pictures outside of blocks, but those on other hosts."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", text))
    return [target for target in targets if "://" not in target]


def slugs_of(text: str) -> set[str]:
    """Return the anchors of the headings, as both GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).strip().replace(" ", "-") for one in headings}


BLOCKS: Final = [block for path in USER_DOCUMENTS for block in find_blocks(path)]
# A request: path, headers, body.
CURL: Final = re.compile(
    r"curl http://localhost:11434(/\S+)((?: -H '[^']+')*)(?: -o \S+)? -d '([^']+)'"
)
