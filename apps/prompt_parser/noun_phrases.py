"""Noun phrases up to the noun: determiners, adjectives, noun modifiers, names; and coordination."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

from apps.prompt_parser import vocabulary as v
from apps.prompt_parser.inflection import ing_form, past_forms, plural
from apps.prompt_parser.trees import NOUNS, Node
from apps.prompt_parser.vocabulary import Vocabulary


class NounPhrases:
    """Samples what stands before a noun. ClearNLP labels, Penn tags."""

    def __init__(self, wordnet: Path, seed: int):
        self.rng = random.Random(seed)
        self.words = Vocabulary(wordnet, self.rng)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, items: Any) -> Any:
        return self.rng.choice(items)

    def weighted(self, table: dict) -> Any:
        return self.rng.choices(list(table), list(table.values()))[0]

    def simple_np(self, det: str | None = None, owners: bool = True) -> Node:
        """Determiner, modifiers and noun. det: "" for none, "a" for that article, None for any."""
        if self.chance(0.04):
            name = self.name()
            return name.before_all("det", Node("the", "DT")) if self.chance(0.3) else name
        many = self.chance(0.3)
        node = Node(self.noun(many), "NNS" if many else "NN")
        self.determine(node, many, det, owners)
        if self.chance(0.05):
            *first, last = self.pick(v.COMPOUNDS).split()
            node.word = plural(last) if many else last
            if self.chance(0.4):
                node.before("amod", self.adjective_phrase())
            for word in first:
                node.before("compound", Node(word, "NN"))
        else:
            self.modify(node)
        self.fix_article(node)
        return node

    def noun(self, many: bool) -> str:
        noun = self.words.noun()
        if self.chance(0.02):
            noun = f"{self.pick([*v.THINGS, *'txv'])}-{self.pick(v.THINGS)}"
        return plural(noun) if many else noun

    def name(self) -> Node:
        """A proper name of one to three words, real or made up."""
        length = self.pick([1, 2, 2, 3])
        parts = [self.pick(v.NAMES) if self.chance(0.75) else self.words.made_up() for _ in range(length)]
        if self.chance(0.2):
            parts[-1] = self.pick(["tower", "bridge", "street", "castle", "park", "mountain", "beach", "museum"])
        node = Node(parts[-1], "NNP")
        for part in parts[:-1]:
            node.before("compound", Node(part, "NNP"))
        return node

    def join(self, nodes: list[Node]) -> Node:
        """Coordination with commas, "and", or both: each member hangs on the one before it.

        Behind a mere comma a noun is "appos", as in a list of tags: nobody knows yet whether an "and" will follow.
        """
        always_and = len(nodes) > 2 and self.chance(0.2)
        only_comma = self.chance(0.05)
        oxford = self.chance(0.3)
        for i, (left, right) in enumerate(pairwise(nodes)):
            last = i == len(nodes) - 2
            comma = only_comma or not last or (len(nodes) > 2 and oxford)
            if comma and not always_and:
                left.add("punct", Node(",", ","))
            joined = always_and or (last and not only_comma)
            if joined:
                left.add("cc", Node(self.weighted({"and": 92, "or": 4, "&": 2, "plus": 1}), "CC"))
            left.add("conj" if joined or right.tag not in NOUNS else "appos", right)
        return nodes[0]

    def determine(self, node: Node, many: bool, det: str | None, owners: bool) -> None:
        """Article, numeral, quantity word or possessor."""
        if det == "":
            return
        r = self.rng.random()
        if det == "a" or r < 0.55:
            if not many:
                node.before("det", Node("a", "DT"))
        elif r < 0.7:
            node.before("det", Node("the", "DT"))
        elif r < 0.76:
            node.before("det", Node(self.pick(v.DETERMINERS), "DT"))
        elif r < 0.84 and many:
            if self.chance(0.15):
                node.before("det", Node("the", "DT"))
            node.before("nummod", self.number())
        elif r < 0.87 and many:
            node.before("amod", Node(self.pick(["several", "many", "few", "various", "multiple"]), "JJ"))
        elif r < 0.9:
            node.before("nummod", Node("one", "CD"))
        elif r < 0.94:
            node.before("poss", Node(self.pick(["his", "her", "its", "their", "my", "your"]), "PRP$"))
        elif owners:
            owner = self.name() if self.chance(0.2) else self.simple_np(owners=False)
            mark = "'" if owner.word.endswith("s") and self.chance(0.5) else "'s"
            node.before("poss", owner.add("case", Node(mark, "POS")))

    def number(self) -> Node:
        """ "seven", "12", "twenty-four", "a dozen", "two hundred"."""
        r = self.rng.random()
        if r < 0.8:
            return Node(self.pick(v.NUMERALS), "CD")
        if r < 0.86:
            return Node(f"{self.pick(v.TENS)}-{self.pick(['one', *v.SMALL_NUMBERS[:8]])}", "CD")
        large = Node(self.pick(["dozen", "dozen", "hundred", "thousand", "million"]), "CD")
        if large.word != "dozen" and self.chance(0.4):
            return large.before("nummod", Node(self.pick(v.NUMERALS), "CD"))
        return large.before("det", Node("a", "DT"))

    def fix_article(self, node: Node) -> None:
        """Says a or an before the next word; some clash, as in published prompts."""
        for i, (label, child) in enumerate(node.left):
            if label == "det" and child.word == "a" and not self.chance(0.08):
                following = node.left[i + 1][1].first() if i + 1 < len(node.left) else node
                child.word = "an" if following.word[0] in "aeiou" else "a"

    def modify(self, node: Node) -> None:
        """Adjectives, participles and nouns before the noun."""
        r = self.rng.random()
        if r < 0.27:
            return
        if r < 0.6:
            node.before("amod", self.adjective_phrase())
        elif r < 0.75:
            self.adjective_list(node)
        elif r < 0.82:
            self.noun_coordination(node)
        else:
            for _ in range(self.weighted({0: 60, 1: 35, 2: 5})):
                node.before("amod", self.adjective_phrase())
            self.compounds(node)
        if r < 0.75 and self.chance(0.12):
            self.compounds(node)

    def compounds(self, node: Node) -> None:
        """ "fire truck", "toy fire truck", "swimming pool"."""
        for _ in range(self.weighted({1: 80, 2: 17, 3: 3})):
            r = self.rng.random()
            if r < 0.06:
                node.before("compound", Node(plural(self.words.noun()), "NNS"))
            elif r < 0.09:
                node.before("compound", Node(self.pick(v.ING_COMPOUNDS), "NN"))
            else:
                node.before("compound", Node(self.pick(v.MATERIALS) if r < 0.3 else self.words.noun(), "NN"))

    def noun_coordination(self, node: Node) -> None:
        """ "a wood and metal desk", "a ham and egg sandwich"."""
        table = {"material": v.MATERIALS, "food": v.FOODS}.get(self.weighted({"material": 64, "food": 32, "any": 4}))
        first, second = (Node(self.pick(table) if table else self.words.noun(), "NN") for _ in range(2))
        node.before("nmod", first.add("cc", Node("and", "CC")).add("conj", second))

    def adjective_list(self, node: Node) -> None:
        """Two to four adjectives: bare, with commas, or coordinated."""
        adjectives = [self.adjective_phrase() for _ in range(self.weighted({2: 65, 3: 28, 4: 7}))]
        r = self.rng.random()
        if r < 0.45:
            for adjective in adjectives:
                node.before("amod", adjective)
        elif r < 0.6:
            for i, adjective in enumerate(adjectives):
                if i:
                    node.before("punct", Node(",", ","))
                node.before("amod", adjective)
        else:
            if self.chance(0.15):
                node.before("amod", self.adjective_phrase())
            node.before("amod", self.join(adjectives))

    def adjective(self) -> Node:
        """One adjective, participle or hyphenated modifier."""
        r = self.rng.random()
        if r < 0.74:
            return Node(self.words.adjective(), "JJ")
        if r < 0.83:
            word = self.pick(v.PARTICIPLES) if self.chance(0.6) else past_forms(self.words.wordnet("v"))[1]
            return Node(word, "VBN")
        if r < 0.89:
            verb = self.pick(v.INTRANSITIVE) if self.chance(0.7) else self.words.wordnet("v")
            word = self.pick(v.ING_ADJECTIVES) if self.chance(0.7) else ing_form(verb)
            return Node(word, "VBG")
        return Node(self.hyphenated(), "JJ")

    def hyphenated(self) -> str:
        """ "watermelon-styled", "blue-eyed", "dark-green", "three-legged"."""
        r = self.rng.random()
        if r < 0.35:
            return f"{self.words.noun()}-{self.pick(v.STYLED)}"
        if r < 0.55:
            return f"{self.pick([*v.COLOURS, *v.ADJECTIVES])}-{self.pick(v.STYLED)}"
        if r < 0.75:
            return f"{self.pick([*v.SHADES, *v.COLOURS])}-{self.pick(v.COLOURS)}"
        if r < 0.8:
            return f"{self.pick(v.COLOURS)}-and-{self.pick(v.COLOURS)}"
        if r < 0.88:
            return f"{self.pick(['two', 'three', 'four', 'multi', 'half', '3', 'one'])}-{self.pick(v.STYLED)}"
        return f"{self.words.adjective()}-{self.words.noun()}"

    def adjective_phrase(self) -> Node:
        """An adjective with its adverb, shade or measure noun, as far as it has one."""
        r = self.rng.random()
        if r < 0.8:
            return self.adjective()
        if r < 0.86:
            return Node(self.words.adjective(), "JJ").before("advmod", Node(self.pick(v.DEGREE), "RB"))
        if r < 0.91:
            participle = self.pick([*v.PARTICIPLES, *v.OPEN_PARTICIPLES])
            adverb = self.pick(v.MANNER) if self.chance(0.7) else self.words.wordnet("r")
            return Node(participle, "VBN").before("advmod", Node(adverb, "RB"))
        if r < 0.95:
            return Node(self.pick(v.COLOURS), "JJ").before("amod", Node(self.pick(v.SHADES), "JJ"))
        return Node(self.pick(v.OPEN_PARTICIPLES), "VBN").before("npadvmod", Node(self.words.noun(), "NN"))

    def predicate(self) -> Node:
        """ "orange and purple", "very small"."""
        parts = []
        for _ in range(self.weighted({1: 60, 2: 32, 3: 8})):
            part = Node(self.words.adjective() if self.chance(0.93) else self.hyphenated(), "JJ")
            if self.chance(0.12):
                part.before("advmod", Node(self.pick(v.DEGREE), "RB"))
            elif self.chance(0.15) and part.word in v.COLOURS:
                part.before("amod", Node(self.pick(v.SHADES), "JJ"))
            parts.append(part)
        return self.join(parts)
