"""The documentation tells the truth: its programs run, its commands parse, its links lead somewhere."""

import importlib.util
import re
import shlex

import pytest
import yaml
from typer.main import get_command

from attncontrol.cli import app
from attncontrol.losses import registry
from tests.documents import PAGES, ROOT, blocks, commands, name, table, text
from tests.stock import support_matrix

NEEDS_A_SERVER = {"docs/demo.md"}  # its program runs in tests/demo/test_api.py


def test_the_support_matrix_is_what_is_tested():
    assert table("docs/works_with.md", "support") == support_matrix()


def test_the_family_on_its_page_is_that_of_the_package():
    (block,) = blocks(ROOT / "docs/add_a_family.md", "python")
    assert block.strip() == (ROOT / "attncontrol/families/pixart.py").read_text(encoding="utf-8").strip()


@pytest.mark.slow
@pytest.mark.parametrize("page", [name(p) for p in PAGES if blocks(p, "python") and name(p) not in NEEDS_A_SERVER])
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))  # what a page registers ends with it
    names = {"__name__": "documentation"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        exec(compile(block, f"{page}, block {number}", "exec", dont_inherit=True), names)


@pytest.mark.parametrize(("page", "command"), commands("attncontrol"))
def test_attncontrol_accepts_the_command(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    group = get_command(app)
    subcommand, *words = shlex.split(command)[1:]
    with group.make_context("attncontrol", [subcommand]) as parent:
        group.get_command(parent, subcommand).make_context(subcommand, words, parent=parent)


@pytest.mark.parametrize(("page", "command"), commands("python"))
def test_the_program_and_its_options_exist(page, command):
    words = shlex.split(command)[1:]
    program = importlib.util.find_spec(words[1]).origin if words[0] == "-m" else ROOT / words[0]
    source = text(program)
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


@pytest.mark.parametrize("page", [name(p) for p in PAGES])
def test_every_file_a_page_links_to_is_there(page):
    links = re.findall(
        r"\]\(((?!https?://)[^)#\s]+)[^)]*\)", re.sub(r"```.*?```|`[^`\n]*`", "", text(page), flags=re.S)
    )
    links += re.findall(r'<img src="([^"]+)"', text(page))
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_every_page_has_its_place_in_the_navigation():
    def pages(entries):
        for entry in entries:
            yield from [entry] if isinstance(entry, str) else pages(next(iter(entry.values())))

    config = yaml.safe_load(text("mkdocs.yml"))
    assert sorted(pages(config["nav"])) == sorted(p.relative_to(ROOT / "docs").as_posix() for p in PAGES[1:])
