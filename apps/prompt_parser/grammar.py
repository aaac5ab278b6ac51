"""A seeded sampler of image prompts with their dependency trees (ClearNLP labels, Penn tags)."""

from __future__ import annotations

from apps.prompt_parser import vocabulary as v
from apps.prompt_parser.clauses import many
from apps.prompt_parser.inflection import ing_form
from apps.prompt_parser.scenes import Scenes
from apps.prompt_parser.trees import Node, Sample, attach_low, flatten


class Grammar(Scenes):
    """Samples whole prompts. Same seed, same prompts."""

    def sample(self) -> Sample:
        """One prompt of one to four sentences or fragments, lower-cased."""
        roots = [self.prompt()]
        while self.chance(0.08) and len(roots) < 4:
            roots.append(self.prompt())
        for root in roots[:-1]:
            root.add("punct", Node(self.pick([".", ".", ".", ";", "!"]), "."))
        if self.chance(0.25):
            roots[-1].add("punct", Node(".", "."))
        if self.chance(0.03):
            start, end = self.pick(["()", '""', "[]", "''"])
            roots[0].before_all("punct", Node(start, ".")).add("punct", Node(end, "."))
        if self.chance(0.08):
            for root in roots:
                drop_articles(root)
        return flatten([attach_low(root) for root in roots])

    def prompt(self) -> Node:
        """One sentence or fragment."""
        kinds = {
            self.fragment: 26, self.pair: 16, self.copular: 11, self.two_clauses: 6, self.there_is: 4,
            self.finite: 20, self.depiction: 8, self.progressive: 6, self.passive: 4, self.no_entity: 2,
            self.style_tail: 7, self.relative_prompt: 8, self.pronoun_clause: 2, self.joined: 6, self.scene: 12,
            self.possession: 4, self.tags: 9, self.fronted: 3,
        }  # fmt: skip
        return self.weighted(kinds)()

    def fragment(self) -> Node:
        """A noun phrase with all it can have."""
        return self.phrase(0)

    def pair(self) -> Node:
        """The benchmarks' form: short phrases joined by "and" or commas."""
        number = self.weighted({2: 70, 3: 20, 4: 7, 5: 3})
        return self.join([self.np(3 if self.chance(0.85) else 1) for _ in range(number)])

    def subject(self) -> Node:
        if self.chance(0.1):
            return self.bare_pair(2)
        if self.chance(0.08):
            return self.np(3).add("relcl", self.relative_clause(3))
        return self.phrase(1) if self.chance(0.2) else self.np(2 if self.chance(0.6) else 1)

    def copular(self) -> Node:
        """ "the sky is orange", "the cat is on a table", "the cat is a big animal"."""
        subject = self.subject()
        be = self.be(subject).before("nsubj", subject)
        r = self.rng.random()
        if r < 0.7:
            be.add("acomp", self.predicate())
        elif r < 0.85:
            self.attach_place(be)
        else:
            be.add("attr", self.np(1, det="a"))
        if r < 0.85 and self.chance(0.2):
            self.attach_place(be, simple=True)
        return be

    def two_clauses(self) -> Node:
        """Clauses joined by "and", "but", "while" or a comma."""
        first, second = ((self.copular if self.chance(0.8) else self.finite)() for _ in range(2))
        if self.chance(0.25):
            first.add("punct", Node(",", ","))
        if not first.right or first.right[-1][1].word != "," or self.chance(0.6):
            first.add("cc", Node(self.pick(["and", "and", "and", "and", "but", "while"]), "CC"))
        return first.add("conj", second)

    def there_is(self) -> Node:
        """ "there is a green parrot on the fence"."""
        noun = self.phrase(0)
        be = Node(self.pick(["are", "were"] if many(noun) else ["is", "was"]), "VBZ")
        return be.before("expl", Node("there", "EX")).add("attr", noun)

    def finite(self) -> Node:
        """ "a cat wears a hat", "two dogs run through a field and bark"."""
        subject = self.subject()
        tag = self.tense(subject)
        verb = self.verb_phrase(tag, 0).before("nsubj", subject)
        if self.chance(0.1):
            verb.add("cc", Node("and", "CC")).add("conj", self.verb_phrase(tag, 1))
        return verb

    def progressive(self) -> Node:
        """ "a cat is sitting on a table"."""
        subject = self.subject()
        return self.verb_phrase("VBG", 0).before("nsubj", subject).before("aux", self.be(subject))

    def passive(self) -> Node:
        """ "a truck is parked next to a house"."""
        subject = self.subject()
        return self.participle_phrase(0).before("nsubjpass", subject).before("auxpass", self.be(subject))

    def pronoun_clause(self) -> Node:
        """ "it is red", "they wear hats", "someone is holding a cup"."""
        pronoun = Node(self.pick(["it", "he", "she", "they", "this", "someone", "something", "everyone"]), "PRP")
        be = Node("are" if pronoun.word == "they" else "is", "VBZ")
        r = self.rng.random()
        if r < 0.4:
            return be.before("nsubj", pronoun).add("acomp", self.predicate())
        if r < 0.7:
            return self.verb_phrase("VBP" if pronoun.word == "they" else "VBZ", 0).before("nsubj", pronoun)
        return self.verb_phrase("VBG", 0).before("nsubj", pronoun).before("aux", be)

    def no_entity(self) -> Node:
        """ "bright and colorful", "something red", "running fast"."""
        r = self.rng.random()
        if r < 0.6:
            return self.predicate()
        if r < 0.75:
            pronoun = self.pick(["something", "someone", "everything", "nothing"])
            return Node(pronoun, "NN").add("amod", self.adjective())
        verb = Node(ing_form(self.pick(v.INTRANSITIVE)), "VBG")
        return verb.add("advmod", Node(self.pick([*v.ADVERBS_OF_PLACE, *v.MANNER]), "RB"))

    def depiction(self) -> Node:
        """ "a photo of", "an oil painting of"."""
        head = Node(self.pick(v.MEDIA), "NN")
        if self.chance(0.8):
            head.before("det", Node("a", "DT"))
        if self.chance(0.2):
            head.before("amod", self.adjective())
        if self.chance(0.35):
            head.before("compound", Node(self.pick([*v.MEDIA_MODIFIERS, *v.MATERIALS]), "NN"))
        self.fix_article(head)
        inner = self.phrase(0) if self.chance(0.6) else self.pair()
        return head.add("prep", Node("of" if self.chance(0.9) else "with", "IN").add("pobj", inner))

    def style_tail(self) -> Node:
        """A prompt with comma-separated style words behind it."""
        head = self.pick([self.fragment, self.pair, self.depiction])()
        for _ in range(self.rng.randint(1, 5)):
            head.add("punct", Node(",", ","))
            r = self.rng.random()
            if r < 0.45:
                head.add("appos", self.style_noun())
            elif r < 0.7:
                *adverbs, adjective = self.pick(v.STYLE_ADJECTIVES).split()
                node = Node(adjective, "JJ")
                for adverb in adverbs:
                    node.before("advmod", Node(adverb, "RB"))
                head.add("dep", node)
            elif r < 0.85:
                head.add("appos", self.np(2, det=""))
            elif r < 0.93:
                head.add("prep", Node("by", "IN").add("pobj", self.name()))
            else:
                style = Node("style", "NN").before("det", Node("the", "DT"))
                style.add("prep", Node("of", "IN").add("pobj", self.name()))
                head.add("prep", Node("in", "IN").add("pobj", style))
        return head

    def style_noun(self) -> Node:
        """ "digital art", "soft lighting"."""
        *modifiers, noun = self.pick(v.STYLE_TAILS).split()
        node = Node(noun, "NNS" if noun.endswith("s") else "NN")
        for word in modifiers:
            adjective = word in v.ADJECTIVES or word in v.COLOURS or word.endswith(("ed", "ic", "al"))
            node.before("amod" if adjective else "compound", Node(word, "JJ" if adjective else "NN"))
        return node

    def relative_prompt(self) -> Node:
        """A noun with a relative clause, then more."""
        noun = self.np(3).add("relcl", self.relative_clause(1))
        r = self.rng.random()
        if r < 0.4:
            second = self.np(3)
            if self.chance(0.3):
                second.add("relcl", self.relative_clause(1))
            return self.join([noun, second])
        if r < 0.6:
            self.attach_place(noun, simple=True)
        elif r < 0.92:
            return self.verb_phrase("VBP" if many(noun) else "VBZ", 0).before("nsubj", noun)
        return noun

    def be(self, subject: Node) -> Node:
        return Node(self.pick(["are", "are", "were"] if many(subject) else ["is", "is", "is", "was"]), "VBZ")


def drop_articles(root: Node) -> None:
    """Telegram style: "cat sitting on mat"."""
    for node in root.walk():
        node.left = [(label, child) for label, child in node.left if child.word not in ("a", "an", "the")]
