"""The documents refer to things that exist: sections of the method, links and anchors, paths of files."""

from __future__ import annotations

import itertools
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
METHOD = ROOT / "docs" / "method.md"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    + [ROOT / name for name in ("benchmarks/README.md", "infra/README.md", "stgcma/weights/README.md")]
)
FOLDERS = ("jobs", "stgcma", "pipelines", "tests", "docs", "infra", "benchmarks")
NOT_SOURCES = {"build", "data", "demo", "dist", "mlruns", "runs", "small"}
"""Folders of the root that commands write."""

NUMBER = r"\d+(?:\.\d+)?"
GAP = r"[\s#]+"
"""A comment may break the line here."""
SEVERAL = rf"{NUMBER}(?:(?:,{GAP}|{GAP}and{GAP}|-){NUMBER})*"
CITATION = re.compile(rf"method{GAP}(?:section{GAP}({NUMBER})|sections{GAP}({SEVERAL}))", re.I)
HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.M)
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.M | re.S)
INLINE_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\]\([^)]*\))*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
HTML_LINK = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=\"([^\"]+)\"")
FILE_ENDINGS = (".py", ".yaml", ".yml", ".md", ".json", ".safetensors", ".png", ".svg")


def sources() -> list[Path]:
    """Every file that may cite the method."""
    found = []
    for folder, names, files in os.walk(ROOT):
        is_root = Path(folder) == ROOT
        names[:] = [n for n in names if not n.startswith((".", "__")) and not (is_root and n in NOT_SOURCES)]
        found += [Path(folder) / name for name in files if name.endswith((".py", ".yaml", ".md"))]
    return sorted(found)


# -- cited sections ----------------------------------------------------------------------------------------------------


def cited_sections(text: str) -> list[str]:
    """Numbers of the sections that a text cites; ``6.1-6.3`` cites its two ends."""
    return [number for match in CITATION.finditer(text) for number in re.findall(NUMBER, match[1] or match[2])]


def method_sections(text: str) -> set[str]:
    """Numbers of the headings ``## 2. ...`` and ``### 2.3 ...``."""
    return set(re.findall(r"^##\s+(\d+)\.\s", text, re.M)) | set(re.findall(r"^###\s+(\d+\.\d+)\s", text, re.M))


def missing_sections(text: str, sections: set[str]) -> list[str]:
    return [number for number in cited_sections(text) if number not in sections]


def test_every_cited_section_of_the_method_exists():
    sections = method_sections(METHOD.read_text(encoding="utf-8"))
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sources()}
    missing = {name: found for name, text in texts.items() if (found := missing_sections(text, sections))}
    assert missing == {}, "cited, but no heading of docs/method.md"
    assert sum(len(cited_sections(text)) for text in texts.values()) > 20


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ("section 7: epochs 8..20", ["7"]),
        ("section 4, step 3, over 5 frames", ["4"]),
        ("sections 2.3, 3.2)", ["2.3", "3.2"]),
        ("sections 5 and 6.1.", ["5", "6.1"]),
        ("sections 6.1-6.3)", ["6.1", "6.3"]),
        ("section\n    # 6.2)", ["6.2"]),
    ],
)
def test_citations_are_read(words, numbers):
    assert cited_sections(f"Widths (method {words}") == numbers
    assert cited_sections(f"the paper's {words}") == []


def test_a_section_that_is_not_there_is_reported():
    sections = method_sections("# The method\n## 2. CLIP\n### 2.3 Head\n#### 2.4 Deep\n## Others\n2.5 text\n")
    assert sections == {"2", "2.3"}
    assert missing_sections("Head (method " + "sections 2.3, 2.4) and method " + "section 9", sections) == ["2.4", "9"]


# -- links -------------------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a document."""
    found: set[str] = set()
    for _, title in HEADING.findall(FENCE.sub("", text)):
        title = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        numbered = (slug if n == 0 else f"{slug}-{n}" for n in itertools.count())
        found.add(next(name for name in numbered if name not in found))
    return found


def links(text: str) -> list[str]:
    """Targets of all links and pictures, those in code left out."""
    prose = INLINE_CODE.sub("code", FENCE.sub("", text))
    nested = [target for match in LINK.finditer(prose) for target in LINK.findall(match[0][1:])]
    return [*LINK.findall(prose), *nested, *HTML_LINK.findall(prose)]


def broken_links(text: str, path: Path, root: Path = ROOT) -> list[str]:
    """Relative links of a document at ``path`` whose file, or whose heading in a Markdown file, does not exist."""
    broken = []
    for link in dict.fromkeys(links(text)):
        if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.I):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.is_relative_to(root) or (name and not target.exists()):
            broken.append(link)
        elif anchor and target.suffix == ".md":
            content = target.read_text(encoding="utf-8") if name else text
            if anchor not in anchors(content):
                broken.append(link)
    return broken


def names_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=names_of)
def test_links_lead_somewhere(path):
    assert broken_links(path.read_text(encoding="utf-8"), path) == []


def test_a_link_that_leads_nowhere_is_reported(tmp_path):
    root = tmp_path.resolve()
    (root / "docs").mkdir()
    (root / "docs" / "other.md").write_text("# Other\n## 2.3 Output, and `head`\n## Twice\n## Twice\n")
    (root / "docs" / "drawing.svg").write_text("<svg/>")
    good = """
        [page](docs/other.md) [section](docs/other.md#23-output-and-head) [second](docs/other.md#twice-1) [top](#here)
        [![drawing](docs/drawing.svg)](docs/other.md) <img width="9" src="docs/drawing.svg"> [web](https://x.test/a#b)
        [lines](docs/drawing.svg#L3) `[code](absent.md)`\n\n```\n[code](absent.md)\n```\n\n# Here\n"""
    bad = """
        [page](docs/absent.md) [section](docs/other.md#24-absent) ![](docs/absent.png) [top](#there) [out](../x.md)
        [![drawing](docs/lost.svg)](docs/other.md) <img src="docs/gone.svg">
        """
    assert broken_links(good, root / "README.md", root) == []
    assert sorted(broken_links(bad, root / "README.md", root)) == sorted(
        ["docs/absent.md", "docs/other.md#24-absent", "docs/absent.png", "#there", "../x.md"]
        + ["docs/lost.svg", "docs/gone.svg"]
    )


# -- paths in code -----------------------------------------------------------------------------------------------------


def named_paths(text: str) -> Iterator[str]:
    """Paths of the repository in code: in backticks all, in code blocks those of files."""
    for block in FENCE.finditer(text):
        for word in block[0].split():
            if word.endswith(FILE_ENDINGS) and word.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
                yield word
    for code in INLINE_CODE.findall(FENCE.sub("", text)):
        for word in code.split():
            if word.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
                yield word.rstrip(",;:.")


def missing_paths(text: str, root: Path = ROOT) -> list[str]:
    """Named paths that match nothing; ``<name>``, ``...`` and ``*`` stand for anything, ``{a,b}`` for each of both."""
    missing = []
    for path in dict.fromkeys(named_paths(text)):
        pattern = re.sub(r"<[^>]*>|\.\.\.", "*", path).partition("::")[0].rstrip("/")
        for one in _alternatives(pattern):
            if next(iter(root.glob(one)), None) is None:
                missing.append(path)
                break
    return missing


def _alternatives(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    parts = [pattern[: match.start()] + choice + pattern[match.end() :] for choice in match[1].split(",")]
    return [one for part in parts for one in _alternatives(part)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=names_of)
def test_named_paths_exist(path):
    assert missing_paths(path.read_text(encoding="utf-8")) == []


def test_a_path_that_is_not_there_is_reported(tmp_path):
    (tmp_path / "jobs" / "recipes").mkdir(parents=True)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / "jobs" / "recipes" / name).touch()
    good = (
        "`jobs/`, `jobs/recipes/*.yaml`, `jobs/recipes/<name>.yaml`, `jobs/recipes/{a,b}.yaml`, `src/absent.py`\n"
        "`train jobs/recipes/a.yaml --dry-run` and absent.yaml\n```\nrun jobs/recipes/b.yaml > jobs/made.log\n```\n"
    )
    bad = (
        "`jobs/absent.py`, `docs/`, `jobs/recipes/*.json`, `jobs/recipes/{a,c}.yaml`\n"
        "`train jobs/recipes/c.yaml`\n```\nrun jobs/recipes/d.yaml\n```\n"
    )
    assert missing_paths(good, tmp_path) == []
    assert sorted(missing_paths(bad, tmp_path)) == sorted(
        ["jobs/absent.py", "docs/", "jobs/recipes/*.json", "jobs/recipes/{a,c}.yaml"]
        + ["jobs/recipes/c.yaml", "jobs/recipes/d.yaml"]
    )


# -- the citation ------------------------------------------------------------------------------------------------------


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == project["version"]
