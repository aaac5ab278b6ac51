"""Dependency trees, built head first: left and right dependents make every tree projective by construction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Node:
    """A word with its Penn tag and its dependents, each with its label, in text order on either side."""

    word: str
    tag: str
    left: list[tuple[str, Node]] = field(default_factory=list)
    right: list[tuple[str, Node]] = field(default_factory=list)

    def add(self, label: str, node: Node) -> Node:
        """Append a right dependent; returns this node."""
        self.right.append((label, node))
        return self

    def before(self, label: str, node: Node) -> Node:
        """Append a left dependent, the nearest to the head so far; returns this node."""
        self.left.append((label, node))
        return self

    def before_all(self, label: str, node: Node) -> Node:
        """Insert a left dependent as the first word of the subtree; returns this node."""
        self.left.insert(0, (label, node))
        return self

    def first(self) -> Node:
        """The first word of the subtree."""
        return self.left[0][1].first() if self.left else self

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for _, child in (*self.left, *self.right):
            yield from child.walk()


@dataclass
class Sample:
    """A prompt as lists over its words; a root's head is itself."""

    words: list[str]
    tags: list[str]
    heads: list[int]
    labels: list[str]


def flatten(roots: list[Node]) -> Sample:
    """The word lists of one or more trees."""
    sample = Sample([], [], [], [])

    def visit(node: Node, label: str) -> int:
        children = [visit(child, name) for name, child in node.left]
        index = len(sample.words)
        sample.words.append(node.word)
        sample.tags.append(node.tag)
        sample.labels.append(label)
        sample.heads.append(index)
        children += [visit(child, name) for name, child in node.right]
        for child in children:
            sample.heads[child] = index
        return index

    for root in roots:
        visit(root, "ROOT")
    return sample
