"""README and docs: every command parses, every link resolves, every line fits."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRACKED = subprocess.run(["git", "ls-files", "*.md"], capture_output=True, text=True, cwd=ROOT).stdout.split()
PAGES = sorted(ROOT / name for name in TRACKED) or sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Notes and changes name the commands of their day.
GUIDES = [page for page in PAGES if page.name not in ("notes.md", "CHANGELOG.md")]
_BEAM = "needs pip install -r requirements-beam.txt"  # what data_prep checks after its flags
_INCOMPLETE = ("is missing", "arguments are required")  # text may name a command without all of its flags
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"python (?:main\.py|-m [\w.]+|benchmarks/\w+\.py)(?: [^`]*)?")


def words_of(command: str) -> list[str]:
    """The command's words, with values for placeholders: `[--step=N]` becomes `--step=1`."""
    command = re.sub(r"\[(--[^\]]*)\]", r"\1", command)
    command = re.sub(r"=(\$\w+|N|\.\.\.)(?=\s|$)", "=1", command)
    return [word for word in shlex.split(command, comments=True) if word != "..."]


def commands_of(page: Path) -> tuple[list[list[str]], list[list[str]]]:
    """The commands in code blocks, and those within the text, which may leave out flags."""
    text = page.read_text()
    blocks, inline = [], []
    for kind, block in FENCE.findall(text):
        if kind in ("python", "text", "bibtex"):
            continue
        if kind == "yaml":
            block = re.sub(r"\n +(?=--|python )", " ", block)
        for line in block.replace("\\\n", "").splitlines():
            # What follows in a shell, or closes the quotes around a command for another machine, is not part of it.
            blocks += [words_of(re.split(r"&&|\"$|\" *#", found)[0]) for found in PROGRAM.findall(line)]
    for found in re.findall(r"`([^`]+)`", FENCE.sub("", text).replace("\n", " ")):
        inline += [words_of(command) for command in PROGRAM.findall(found)]
    return blocks, inline


def test_commands_of_the_pages_parse_with_the_flags_of_their_programs():
    named = [(page.name, words, inline) for page in GUIDES for inline in (0, 1) for words in commands_of(page)[inline]]
    named = [one for one in named if "--config=1" not in one[1]]
    assert sum(not inline for *_, inline in named) > 30
    wrong = ["python", "main.py", "--config=configs/coco.py", "--workdir=runs", "--config.batchsize=1"]
    asked = json.dumps([words for _, words, _ in named] + [wrong, ["python", "-m", "data_prep", "--imges=a"]])
    command = [sys.executable, "tests/commands.py"]
    result = subprocess.run(command, input=asked, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    *complaints, wrong_field, wrong_flag = json.loads(result.stdout.splitlines()[-1])
    assert "batchsize" in wrong_field and "imges" in wrong_flag
    refused = [
        f"{page}: {shlex.join(words)}: {complaint}"
        for (page, words, inline), complaint in zip(named, complaints, strict=True)
        if complaint and not any(allowed in complaint for allowed in (_INCOMPLETE if inline else (_BEAM,)))
    ]
    assert not refused, "\n".join(refused)


def test_make_targets_of_the_pages_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(page.read_text() for page in GUIDES)
    used = set(re.findall(r"(?:^|`)make (?:\w+=\S+ )*([\w-]+)", text, re.MULTILINE))
    assert {"demo", "test", "test-fast"} <= used <= targets, used - targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        name, _, anchor = target.partition("#")
        if not name.startswith("http"):
            other = page.parent / name if name else page
            assert other.exists(), target
            heads = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads], target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_lines_fit(page):
    for line in FENCE.sub("", page.read_text()).splitlines():
        assert len(line) <= (160 if line.startswith("|") else 120), line


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130 and max(map(len, lines)) <= 100
