"""What `import attncontrol` gives to people, to tools and to type checkers."""

import ast
import importlib
import inspect
import pydoc
import re
from pathlib import Path

import pytest

import attncontrol


def names_for_type_checkers(module) -> set[str]:
    """The names that a module imports for type checkers only."""
    tree = ast.parse(Path(module.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {alias.name for statement in block.body for alias in statement.names}


def test_type_checkers_see_all_public_names():
    assert names_for_type_checkers(attncontrol) == set(attncontrol.__all__)


def test_type_checkers_see_all_methods():
    methods = {cls.__name__ for cls in attncontrol.method_classes().values()}
    assert names_for_type_checkers(importlib.import_module("attncontrol.losses")) == methods


def test_help_begins_with_what_one_can_do():
    screen = pydoc.plain(pydoc.render_doc(attncontrol)).splitlines()[:24]
    assert all(any(verb in line for line in screen) for verb in ("attach(", "from_pretrained(", "create_method("))


@pytest.mark.parametrize("cls", attncontrol.method_classes().values(), ids=lambda cls: cls.name)
def test_help_of_a_method_explains_every_setting(cls):
    text = " ".join(inspect.getdoc(cls).split())
    for name, default in cls().settings().items():
        meaning = " ".join(cls.__dataclass_fields__[name].metadata["help"].split())
        assert f"{name}: {meaning} (default: {default!r})." in text


EXPLAINED = {
    "attach": attncontrol.attach,
    "create_method": attncontrol.create_method,
    "AttentionControlPipeline.from_pretrained": attncontrol.AttentionControlPipeline.from_pretrained,
    "AttentionControlPipeline.from_pipe": attncontrol.AttentionControlPipeline.from_pipe,
    "AttentionControlPipeline.__call__": attncontrol.AttentionControlPipeline.__call__,
    "AttentionControlOutput": attncontrol.AttentionControlOutput,
    "Grounding": attncontrol.Grounding,
    "Context": attncontrol.Context,
    "Evaluation": attncontrol.Evaluation,
    "MethodSum": attncontrol.MethodSum,
}


@pytest.mark.parametrize("public", EXPLAINED.values(), ids=EXPLAINED)
def test_help_explains_every_argument(public):
    block = inspect.getdoc(public).partition("Args:")[2]
    explained = re.findall(r"^    (?:\*\*?)?(\w+): ", block, re.M)
    assert [name for name in inspect.signature(public).parameters if name not in ("self", *explained)] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'SynGn'"):
        attncontrol.SynGn  # noqa: B018
