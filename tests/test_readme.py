"""The README tells the truth: its methods are those there are, its files are there, and it stays short."""

from attncontrol import method_classes
from tests.documents import table, text


def test_the_table_of_methods_is_that_of_the_registry():
    rows = [
        f"| `{name}` | {cls.summary}{' Needs a layout.' if cls.needs_layout else ''} | {cls.paper} |"
        for name, cls in method_classes().items()
    ]
    assert table("README.md", "methods").splitlines()[2:] == rows


def test_the_readme_is_one_page():
    assert text("README.md").count("\n") <= 140


def test_the_number_of_what_it_works_with_is_that_of_the_tests():
    from tests.stock import GROUPS

    works = sum(len(cases) for group, cases in GROUPS.items() if not group.startswith("Refused"))
    assert f"Each of [these {works}](docs/works_with.md) is tested" in text("README.md")
