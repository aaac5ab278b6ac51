"""YAML: a list of rows, read one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

from attncontrol.batch.formats.raw_row import Problem, Record, short

ANCHORS = "anchors (&) and aliases (*) are not read: give shared values as options of the command line"
MOST_VALUES = 50_000  # of a row, which take half a second


def read_yaml(path: Path) -> Iterator[Record | Problem]:
    """The items of the list at the top, each a mapping; further documents (---) are read likewise."""
    with path.open("rb") as file:
        try:
            events = _Events(getattr(yaml, "CSafeLoader", yaml.SafeLoader)(file))
            events.get_event()
            while not events.check_event(yaml.StreamEndEvent):
                yield from _document(path, events)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line, place = (mark.line + 1, f" at column {mark.column + 1}") if mark else (None, "")
            yield Problem(
                str(path), line, None, f"cannot be read as YAML: {error.problem}{place}; what follows was not read"
            )
        except yaml.YAMLError as error:
            message = " ".join(str(error).split())
            yield Problem(str(path), None, None, f"is not YAML in UTF-8: {message}; what follows was not read")
        except RecursionError:
            yield Problem(str(path), None, None, "the YAML is nested too deeply; what follows was not read")


def _document(path: Path, events: _Events) -> Iterator[Record | Problem]:
    events.get_event()
    if events.check_event(yaml.ScalarEvent) and not events.peek_event().value:
        events.get_event()  # an empty document
    elif not events.check_event(yaml.SequenceStartEvent):
        line = events.peek_event().start_mark.line + 1
        events.compose_node(None, None)
        yield Problem(str(path), line, None, "expected a list of rows: lines '- prompt: ...'")
    else:
        events.get_event()
        while not events.check_event(yaml.SequenceEndEvent):
            yield _row(path, events)
        events.get_event()
    events.get_event()


def _row(path: Path, events: _Events) -> Record | Problem:
    events.aliased, events.values = False, 0
    node = events.compose_node(None, None)
    line = node.start_mark.line + 1
    if events.aliased:
        return Problem(str(path), line, None, ANCHORS)
    if not isinstance(node, yaml.MappingNode):
        return Problem(str(path), line, None, f"expected 'prompt: ...', not {short(node.value)}")
    try:
        return Record(line, events.construct_document(node))
    except ConstructorError as error:
        where = error.problem_mark.line + 1 if error.problem_mark else line
        return Problem(str(path), where, None, f"{error.problem}")
    except (ValueError, TypeError, RecursionError) as error:
        return Problem(str(path), line, None, f"has a value that cannot be read: {error}")


class _Events(Composer, SafeConstructor, Resolver):
    """Composes one node at a time from the events of a parser."""

    def __init__(self, parser: Any) -> None:
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self._parser = parser
        self.aliased, self.values = False, 0

    def check_event(self, *choices: type) -> bool:
        return self._parser.check_event(*choices)

    def peek_event(self) -> Any:
        return self._parser.peek_event()

    def get_event(self) -> Any:
        return self._parser.get_event()

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """As the base, but an alias is noted and becomes an empty text, and anchors are forgotten."""
        self.anchors = {}
        self.values += 1
        if self.values > MOST_VALUES:
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(None, None, f"a row has more than {MOST_VALUES} values", mark)
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            self.aliased = True
            return yaml.ScalarNode("tag:yaml.org,2002:str", "", event.start_mark, event.end_mark)
        self.aliased |= self.peek_event().anchor is not None
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        value = super().construct_mapping(node, deep=True)
        if len(value) < len(node.value):
            raise ConstructorError(None, None, "a key is there twice", node.start_mark)
        return value
