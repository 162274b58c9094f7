"""The pages of the course: each has the parts of a lesson, its commands exist, and it says what a row asks for."""

import re
from pathlib import Path

import pytest
from setup_support import ROOT

from lessons.catalogue import Unit, unit, units

PAGES = [one for one in units() if (one.folder / "README.md").is_file()]
LESSONS = [one for one in PAGES if not one.is_project]

SAID = [
    ("E1-01", "1", r"ulimit -n; nproc; free -g; top -bn1 \| head"),
    ("E1-01", "1", r"sysctl -n hw.ncpu hw.memsize"),
    ("E1-07", "1", r"needs 100 requests per second and has a server that does 1,000 needs no load balancer"),
    ("E2-05", "2", r"Cache-aside.*TTL.*Write-through.*Write-behind"),
    ("E2-05", "2", r"L1, L2 and L3 caches.*CDN.*Memcached"),
    ("E2-05", "2", r"Pareto"),
    ("E2-06", "2", r"redis-cli -n 15 monitor"),
    ("E3-07", "3", r"round robin.*least connections.*consistent hashing"),
    ("E3-07", "3", r"TLS termination.*compression.*static files"),
    ("E3-07", "3", r"health checks.*active.*passive"),
]
"""Row, lesson, and a pattern that its page has; white space stands for any."""


def page(one: Unit) -> str:
    return (one.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("one", LESSONS, ids=lambda one: one.key)
def test_a_page_has_the_parts_of_a_lesson_f_12(one: Unit) -> None:
    text = page(one)
    assert re.match(rf"# Lesson {one.key}: \w", text)
    assert re.search(r"^\*\*Goal\.\*\* ", text, re.MULTILINE)
    for part in ("The idea", "Steps", "Exercise"):
        assert re.search(rf"^##+ {part}", text, re.MULTILINE), part
    folded = re.search(r"<details>\n<summary>[^\n]+</summary>\n\n(.+?)\n\n</details>", text, re.DOTALL)
    assert folded, "the answer is hidden below a fold"
    assert text.index("\n## Exercise") < folded.start()


@pytest.mark.parametrize("one", PAGES, ids=lambda one: one.key)
def test_its_commands_exist(one: Unit) -> None:
    for key, lab in re.findall(r"python -m lessons (?!check|figures|env|list)(\w+)(?: (\w+))?", page(one)):
        named = unit(key)
        assert named.is_project or not lab or named.lab(lab)


@pytest.mark.parametrize("one", PAGES, ids=lambda one: one.key)
def test_its_links_and_figures_exist(one: Unit) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page(one)):
        assert target.startswith("https://") or (one.folder / target).exists(), target
    drawn = {path.relative_to(one.folder).as_posix() for path in one.folder.glob("figures/*.svg")}
    assert drawn <= set(re.findall(r"\]\(([^)]+\.svg)\)", page(one)))


@pytest.mark.parametrize(
    ("row", "key", "pattern"), SAID, ids=[f"{row}-{number}" for number, (row, *_) in enumerate(SAID)]
)
def test_a_page_says_what_a_row_asks_for(row: str, key: str, pattern: str) -> None:
    assert re.search(pattern.replace(" ", r"\s+"), page(unit(key)), re.IGNORECASE | re.DOTALL), row


@pytest.mark.parametrize("path", sorted((ROOT / "lessons").rglob("*.svg")), ids=lambda path: path.name)
def test_a_figure_is_readable_on_dark_pages_and_has_no_date(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "fill: #ffffff" in text
    assert "<dc:date>" not in text


CONTENTS = (ROOT / "docs" / "lessons.md").read_text(encoding="utf-8")


def test_the_contents_name_every_lesson_project_and_lab_f_12() -> None:
    for one in units():
        (line,) = re.findall(
            rf"^\|.*\]\(\.\./{one.folder.relative_to(ROOT).as_posix()}/README\.md\).*$", CONTENTS, re.MULTILINE
        )
        assert {lab.name for lab in one.labs} == set(re.findall(r"`(\w+)`", line)) or one.is_project
    assert len(units()) == 8 + 3


def test_the_topics_are_eight_e8_14() -> None:
    table = CONTENTS.partition("## Topics")[2].partition("\n\n[")[0]
    topics = re.findall(r"^\| ([\w ]+) \| ([^|]+) \| (\d) \|$", table, re.MULTILINE)
    assert [number for *_, number in topics] == [str(number) for number in range(1, 9)]
    assert topics[7][0] == "design process"
    for _, concepts, _ in topics:
        assert concepts.count(",") >= 3


def test_the_commands_of_the_contents_exist() -> None:
    for key, lab in re.findall(r"python -m lessons (?!check|figures|env|list)(\w+) (\w+)", CONTENTS):
        assert unit(key).lab(lab)
    anchors = re.findall(r"\]\(\.\./(lessons/[^)#]+)#([\w-]+)\)", CONTENTS)
    assert anchors
    for path, anchor in anchors:
        headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in [heading.lower().replace(" ", "-") for heading in headings]
