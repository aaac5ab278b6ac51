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

    def spine(self) -> list[Node]:
        """This node, its last right dependent, that one's last, and so on."""
        return [self, *(self.right[-1][1].spine() if self.right else ())]


NOUNS, VERBS, ADJECTIVES = ("NN", "NNS", "NNP", "PRP"), ("VB", "VBZ", "VBP", "VBD", "VBG", "VBN"), ("JJ",)
CONTENT = (*NOUNS, *VERBS, *ADJECTIVES, "CD")
# What a phrase hangs on, by its label: the nearest word before it with one of these tags.
HOSTS = {label: CONTENT for label in ("prep", "advcl", "advmod", "dep", "punct", "cc")} | {
    "acl": (*NOUNS, *VERBS), "relcl": NOUNS,
}  # fmt: skip


def attach_low(node: Node) -> Node:
    """Hangs every phrase behind a word on the nearest word that can have it; returns the node.

    Whether "by the pond" belongs to the ducks, the bread or the feeding changes no entity, so a small parser need not
    learn to tell.
    """
    for _, child in node.left:
        attach_low(child)
    following, node.right = node.right, []
    for label, child in following:
        attach_low(child)
        tags = HOSTS.get(label, ())
        if label in ("conj", "appos"):
            tags = next((kind for kind in (NOUNS, VERBS, ADJECTIVES) if child.tag in kind), ())
        host = next((host for host in reversed(node.spine()) if host.tag in tags), node)
        host.right.append((label, child))
    return node


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
