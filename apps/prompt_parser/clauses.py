"""Noun phrases with what follows the noun, verb phrases, participles and relative clauses."""

from __future__ import annotations

from apps.prompt_parser import vocabulary as v
from apps.prompt_parser.inflection import ing_form, past_forms, plural, third_person
from apps.prompt_parser.noun_phrases import NounPhrases
from apps.prompt_parser.trees import Node


class Clauses(NounPhrases):
    """`depth` counts the phrases that a phrase is nested in; the deeper, the plainer."""

    def phrase(self, depth: int) -> Node:
        """A noun phrase, at times several in coordination."""
        first = self.np(depth)
        if depth < 3 and self.chance(0.22 - 0.05 * depth):
            number = 2 if self.chance(0.75) else self.rng.randint(3, 5)
            rest = [self.np(depth + 1, det=self.pick([None, ""])) for _ in range(number - 1)]
            return self.join([first, *rest])
        return first

    def bare_pair(self, depth: int) -> Node:
        """ "a cup and saucer", "the tall man and short woman", "a rake, shovel and wheelbarrow"."""
        number = 2 if self.chance(0.85) else 3
        nodes = [Node(self.noun(many), "NNS" if many else "NN") for many in (self.chance(0.15) for _ in range(number))]
        for i, node in enumerate(nodes):
            if not i:
                self.determine(node, node.tag == "NNS", None if self.chance(0.3) else "a", owners=False)
            if self.chance(0.15):
                node.before("amod", self.adjective())
        self.fix_article(nodes[0])
        if depth < 3 and self.chance(0.15):
            self.attach_place(nodes[-1], depth + 1, simple=True)
        return self.join(nodes)

    def np(self, depth: int, det: str | None = None) -> Node:
        """A noun phrase with what follows its noun."""
        if self.chance(0.05) and depth < 3:
            return self.measure(depth)
        node = self.simple_np(det, owners=depth < 3 and self.chance(0.5))
        if self.chance((0.42, 0.25, 0.1, 0.03)[min(depth, 3)]):
            self.postmodify(node, depth + 1)
        return node

    def measure(self, depth: int) -> Node:
        """ "a piece of pie", "a bunch of grapes"."""
        many = self.chance(0.15)
        word = self.pick(v.MEASURES)
        node = Node(plural(word) if many else word, "NNS" if many else "NN")
        self.determine(node, many, "a", owners=False)
        if self.chance(0.3):
            node.before("amod", self.adjective())
        self.fix_article(node)
        return node.add("prep", Node("of", "IN").add("pobj", self.np(depth + 1, det="")))

    def postmodify(self, node: Node, depth: int) -> None:
        """One or two of: place, "with", "of", participle, relative clause, adjective with complement, infinitive."""
        kind = self.weighted({"place": 46, "with": 16, "of": 7, "ing": 18, "ed": 7, "that": 7, "full": 1.5, "to": 1})
        if kind == "place":
            self.attach_place(node, depth)
        elif kind == "with":
            self.attach_with(node, depth)
        elif kind == "of":
            node.add("prep", Node("of", "IN").add("pobj", self.phrase(depth)))
        elif kind == "ing":
            node.add("acl", self.verb_phrase("VBG", depth))
        elif kind == "ed":
            node.add("acl", self.participle_phrase(depth))
        elif kind == "that":
            node.add("relcl", self.relative_clause(depth))
        elif kind == "full" and self.chance(0.5):
            node.add("amod", self.comparative(depth))
        elif kind == "full":
            preposition = Node(self.pick(["of", "for", "to"]), "IN").add("pobj", self.np(depth))
            node.add("amod", Node(self.pick(["full", "full", "ready", "similar"]), "JJ").add("prep", preposition))
        else:
            node.add("relcl", self.verb_phrase("VB", depth).before("aux", Node("to", "TO")))
        if kind != "that" and self.chance(0.12):
            self.attach_place(node, depth)
        if kind in ("place", "with") and self.chance(0.15):
            node.add("acl", self.verb_phrase("VBG", depth))

    def attach_with(self, node: Node, depth: int) -> None:
        """ "with a red collar", "with his eyes closed", "with people standing behind it"."""
        inner = self.phrase(depth)
        if self.chance(0.12):
            inner = self.simple_np(owners=False)
            if self.chance(0.4):
                inner.add("acl", Node(self.pick(["closed", "crossed", "raised", "spread", "opened", "folded"]), "VBN"))
            else:
                inner.add("acl", self.verb_phrase("VBG", 3))
        node.add("prep", Node(self.pick(["with", "with", "with", "without"]), "IN").add("pobj", inner))

    def attach_place(self, node: Node, depth: int = 1, simple: bool = False) -> None:
        """A prepositional phrase, plain or complex, or an adverb of place."""
        r = self.rng.random()
        if r < (0.72 if not simple else 0.82):
            preposition = self.pick(["in", "on", "at", "with"] if self.chance(0.5) else v.SIMPLE_PREPOSITIONS)
            node.add("prep", Node(preposition, "IN").add("pobj", self.object(depth)))
        elif r < 0.84:
            node.add("prep", self.complex_preposition(depth))
        elif r < 0.92:
            adverb, preposition = self.pick(v.ADVERB_PREPOSITIONS).split()
            place = Node(preposition, "IN").add("pobj", self.object(depth))
            node.add("advmod", Node(adverb, "RB").add("prep", place))
        elif r < 0.96:
            node.add("prep", Node(self.pick(["at", "at", "during"]), "IN").add("pobj", Node(self.pick(v.TIMES), "NN")))
        else:
            node.add("advmod", Node(self.pick(v.ADVERBS_OF_PLACE), "RB"))

    def complex_preposition(self, depth: int) -> Node:
        """ "in front of", "on the left side of": preposition, noun, "of"."""
        first, *middle, noun, last = self.pick(v.COMPLEX_PREPOSITIONS).split()
        inner = Node(noun, "NN")
        for word in middle:
            inner.before("det" if word == "the" else "amod", Node(word, "DT" if word == "the" else "JJ"))
        if noun not in ("left", "right", "side") or self.chance(0.85):
            inner.add("prep", Node(last, "IN").add("pobj", self.object(depth)))
        return Node(first, "IN").add("pobj", inner)

    def object(self, depth: int) -> Node:
        """What a preposition or verb governs; at times a pronoun."""
        if self.chance(0.04):
            return Node(self.pick(["it", "him", "her", "them", "each", "something", "itself"]), "PRP")
        if self.chance(0.08):
            return self.bare_pair(depth + 1)
        return self.np(depth + 1, det="") if self.chance(0.12) else self.phrase(depth + 1)

    def comparative(self, depth: int) -> Node:
        """ "larger than a chair", "taller and older than the church", "larger than a cup and smaller than a bus"."""
        node = Node(self.pick(v.COMPARATIVES), "JJ")
        last = node
        if self.chance(0.15):
            last = Node(self.pick(v.COMPARATIVES), "JJ")
            node.add("cc", Node("and", "CC")).add("conj", last)
        last.add("prep", Node("than", "IN").add("pobj", self.object(depth + 1)))
        if last is node and self.chance(0.2):
            other = Node(self.pick(v.COMPARATIVES), "JJ").add(
                "prep", Node("than", "IN").add("pobj", self.object(depth + 1))
            )
            node.add("cc", Node("and", "CC")).add("conj", other)
        return node

    def verb_phrase(self, tag: str, depth: int) -> Node:
        """A verb in the form of its tag, with object, particle, places and manner."""
        transitive = self.chance(0.5)
        table = v.TRANSITIVE if transitive else v.INTRANSITIVE
        node = Node(self.inflect(self.pick(table) if self.chance(0.8) else self.words.wordnet("v"), tag), tag)
        if self.chance(0.06 if transitive else 0.12):
            node.add("prt", Node(self.pick(v.PARTICLES), "RP"))
        if transitive and self.chance(0.2):
            self.give(node, tag, depth)
        elif transitive:
            node.add("dobj", self.object(depth))
        elif self.chance(0.8):
            if self.chance(0.1):
                node.add("advmod", self.manner())
            elif self.chance(0.05):
                node.add("acomp", Node(self.words.adjective(), "JJ"))
            self.attach_place(node, depth + 1)
        if self.chance(0.25 if transitive else 0.12):
            self.attach_place(node, depth + 1, simple=True)
        if self.chance(0.05):
            node.before("advmod", self.manner())
        if depth < 2 and self.chance(0.2):
            self.continue_verb(node, tag, depth + 2)
        return node

    def manner(self) -> Node:
        """ "happily", "outside", "every morning" as one word."""
        return Node(self.pick([*v.ADVERBS_OF_PLACE, *v.MANNER, "happily", "slowly", "quickly", "quietly"]), "RB")

    def give(self, node: Node, tag: str, depth: int) -> None:
        """ "feeding bread to the ducks", "pours wine for a guest", "handed the girl a rose"."""
        node.word = self.inflect(self.pick(v.GIVING), tag)
        if self.chance(0.08):
            receiver = self.np(3, det="").before_all("det", Node("the", "DT"))
            node.add("dobj", receiver).add("dobj", self.np(3, det="a"))
            return
        node.add("dobj", self.bare_pair(3) if self.chance(0.1) else self.np(3, det=self.pick([None, ""])))
        preposition = self.pick(["to", "to", "to", "for", "into", "onto", "at", "from", "with"])
        node.add("prep", Node(preposition, "IN").add("pobj", self.np(depth + 2, det=self.pick([None, ""]))))

    def continue_verb(self, node: Node, tag: str, depth: int) -> None:
        """ "and barks", "while reading a book", "looking at the rain", "as the sun sets", "to catch a fish"."""
        r = self.rng.random()
        if r < 0.25:
            node.add("cc", Node("and", "CC")).add("conj", self.verb_phrase(tag, depth))
        elif r < 0.4:
            node.add("advcl", self.verb_phrase("VBG", depth).before("mark", Node("while", "IN")))
        elif r < 0.65:
            if self.chance(0.25):
                node.add("punct", Node(",", ","))
            node.add("advcl", self.verb_phrase("VBG", depth))
        elif r < 0.88 or tag == "VBG":
            subject = self.bare_pair(3) if self.chance(0.15) else self.np(3)
            clause = self.verb_phrase(self.tense(subject), depth).before("nsubj", subject)
            node.add("advcl", clause.before_all("mark", Node(self.pick(v.CONJUNCTIONS), "IN")))
        else:
            node.add("advcl", self.verb_phrase("VB", depth).before("aux", Node("to", "TO")))

    def tense(self, subject: Node) -> str:
        """The tag of a verb for a subject: past, or present in its number."""
        if self.chance(0.4):
            return "VBD"
        return "VBP" if many(subject) else "VBZ"

    def participle_phrase(self, depth: int) -> Node:
        """ "covered in snow", "parked next to a truck", "ridden by a man", "painted white"."""
        r = self.rng.random()
        if r < 0.3:
            verb, preposition = self.pick(v.LINKED).split()
            return Node(verb, "VBN").add("prep", Node(preposition, "IN").add("pobj", self.object(depth)))
        if r < 0.4:
            return Node("painted", "VBN").add("oprd", Node(self.pick(v.COLOURS), "JJ"))
        if r < 0.55:
            node = Node(past_forms(self.pick(v.TRANSITIVE))[1], "VBN")
            if self.chance(0.2):
                node.before("auxpass", Node("being", "VBG"))
            return node.add("agent", Node("by", "IN").add("pobj", self.object(depth)))
        node = Node(past_forms(self.pick(v.PASSIVE) if self.chance(0.8) else self.words.wordnet("v"))[1], "VBN")
        if self.chance(0.2):
            node.before("advmod", Node(self.pick(v.MANNER), "RB"))
        self.attach_place(node, depth + 1)
        return node

    def relative_clause(self, depth: int) -> Node:
        """ "that is red and black", "which are standing near a tree", "who wears a hat", "whose eyes are blue"."""
        pronoun = Node(self.weighted({"that": 60, "which": 25, "who": 15}), "WDT")
        r = self.rng.random()
        if r < 0.6:
            be = Node(self.pick(["is", "is", "are", "was"]), "VBZ").before("nsubj", pronoun)
            be.add("acomp", self.predicate())
            if self.chance(0.25):
                self.attach_place(be, depth + 1)
            return be
        if r < 0.72:
            verb = self.verb_phrase("VBG", depth + 1).before("nsubj", pronoun)
            return verb.before("aux", Node(self.pick(["is", "are"]), "VBZ"))
        if r < 0.8:
            verb = self.participle_phrase(depth + 1).before("nsubjpass", pronoun)
            return verb.before("auxpass", Node(self.pick(["is", "are"]), "VBZ"))
        if r < 0.86:
            be = Node(self.pick(["is", "is", "are", "was"]), "VBZ").before("nsubj", pronoun)
            return be.add("acomp", self.comparative(depth + 1))
        if r < 0.93:
            return self.verb_phrase(self.pick(["VBZ", "VBZ", "VBP", "VBD"]), depth + 1).before("nsubj", pronoun)
        if r < 0.96:
            verb = Node(self.inflect(self.pick(v.TRANSITIVE), self.pick(["VBZ", "VBD"])), "VBD")
            return verb.before("dobj", pronoun).before("nsubj", self.np(3))
        noun = Node(self.words.noun(), "NN").before("poss", Node("whose", "WP$"))
        return Node("is", "VBZ").before("nsubj", noun).add("acomp", self.predicate())

    def inflect(self, verb: str, tag: str) -> str:
        """The form of a verb that a Penn tag asks for."""
        if tag == "VBZ":
            return third_person(verb)
        if tag == "VBD":
            return past_forms(verb)[0]
        return ing_form(verb) if tag == "VBG" else verb


def many(noun: Node) -> bool:
    """Whether a noun phrase takes a plural verb."""
    return noun.tag == "NNS" or any(label in ("conj", "appos") for label, _ in noun.right)
