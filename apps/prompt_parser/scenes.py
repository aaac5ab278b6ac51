"""Captions as people write them: bare coordination, actions behind a description, possession, lists of tags."""

from __future__ import annotations

from apps.prompt_parser import vocabulary as v
from apps.prompt_parser.clauses import Clauses, many
from apps.prompt_parser.trees import Node


class Scenes(Clauses):
    """Whole prompts that are one scene or a list of what is in it."""

    def joined(self) -> Node:
        """ "a cup and saucer on a table", "a mother and child waiting at a bus stop", "the cat and dog slept"."""
        pair = self.bare_pair(2)
        r = self.rng.random()
        if r < 0.35:
            self.attach_place(pair, 1)
        elif r < 0.5:
            pair.add("acl", self.verb_phrase("VBG", 1))
        elif r < 0.6:
            pair.add("acl", self.participle_phrase(1))
        elif r < 0.75:
            return self.verb_phrase(self.pick(["VBP", "VBD"]), 1).before("nsubj", pair)
        elif r < 0.82:
            return Node(self.pick(["are", "were"]), "VBZ").before("nsubj", pair).add("acomp", self.predicate())
        return pair

    def scene(self) -> Node:
        """ "a boy in a green sweater feeding bread to ducks", "a man wearing a vest leads a cow to a barn"."""
        actor = self.bare_pair(3) if self.chance(0.08) else self.np(3)
        for _ in range(self.weighted({0: 10, 1: 68, 2: 22})):
            if self.chance(0.06):
                actor.add("punct", Node(",", ","))
            self.describe(actor)
        r = self.rng.random()
        if r < 0.68:
            if self.chance(0.12):
                actor.add("punct", Node(",", ","))
            return actor.add("acl", self.action("VBG"))
        if r < 0.82:
            be = Node(self.pick(["are", "were"] if many(actor) else ["is", "was"]), "VBZ")
            return self.action("VBG").before("nsubj", actor).before("aux", be)
        return self.action(self.tense(actor)).before("nsubj", actor)

    def describe(self, node: Node) -> None:
        """What stands between an actor and the action: "in a red hat", "wearing gloves", "covered in mud"."""
        r = self.rng.random()
        if r < 0.5:
            preposition = self.pick(["in", "in", "with", "with", "on", "from", "of", "at", "near"])
            inner = self.bare_pair(3) if self.chance(0.12) else self.np(3, det=self.pick([None, None, ""]))
            node.add("prep", Node(preposition, "IN").add("pobj", inner))
        elif r < 0.75:
            verb = self.pick(["wear", "wear", "hold", "carry", "ride", "have", *v.TRANSITIVE])
            node.add("acl", Node(self.inflect(verb, "VBG"), "VBG").add("dobj", self.np(3)))
        elif r < 0.88:
            node.add("acl", self.participle_phrase(3))
        else:
            inner = Node(self.inflect(self.pick(v.INTRANSITIVE), "VBG"), "VBG")
            self.attach_place(inner, 3)
            node.add("acl", inner)

    def action(self, tag: str) -> Node:
        """A verb with an object, at times for somebody, and one or two places."""
        verb = Node(self.inflect(self.pick(v.TRANSITIVE) if self.chance(0.8) else self.words.wordnet("v"), tag), tag)
        r = self.rng.random()
        if r < 0.3:
            self.give(verb, tag, 1)
        elif r < 0.75:
            verb.add("dobj", self.bare_pair(3) if self.chance(0.1) else self.np(3, det=self.pick([None, None, ""])))
        else:
            verb.word = self.inflect(self.pick(v.INTRANSITIVE), tag)
            if self.chance(0.3):
                verb.add("prt", Node(self.pick(v.PARTICLES), "RP"))
            self.attach_place(verb, 3)
        for _ in range(self.weighted({0: 35, 1: 50, 2: 15})):
            self.attach_place(verb, 3, simple=True)
        if self.chance(0.1):
            self.continue_verb(verb, tag, 3)
        return verb

    def possession(self) -> Node:
        """ "a kitchen has white cabinets, a stove and a tiled floor", "they had a dog"."""
        if self.chance(0.1):
            owner = Node(self.pick(["it", "he", "she", "they"]), "PRP")
        else:
            owner = self.bare_pair(3) if self.chance(0.08) else self.np(3)
            if self.chance(0.15):
                self.describe(owner)
        word = "had" if self.chance(0.2) else "have" if many(owner) or owner.word == "they" else "has"
        tag = {"had": "VBD", "have": "VBP", "has": "VBZ"}[word]
        number = self.weighted({1: 55, 2: 30, 3: 15})
        things = self.join([self.np(3, det=self.pick([None, "", ""])) for _ in range(number)])
        verb = Node(word, tag).before("nsubj", owner).add("dobj", things)
        if self.chance(0.2):
            self.attach_place(verb, 3, simple=True)
        return verb

    def fronted(self) -> Node:
        """ "on the table there is a red cup", "behind the barn, a dog sleeps", "beside it stands a horse"."""
        r = self.rng.random()
        if r < 0.3:
            thing = self.np(3)
            clause = Node("are" if many(thing) else "is", "VBZ").before("expl", Node("there", "EX")).add("attr", thing)
        elif r < 0.55:
            subject = self.np(3)
            tag = self.tense(subject)
            clause = Node(self.inflect(self.pick(v.INTRANSITIVE), tag), tag).add("nsubj", subject)
        else:
            subject = self.np(3)
            clause = self.verb_phrase(self.tense(subject), 1).before("nsubj", subject)
        if self.chance(0.6):
            clause.before_all("punct", Node(",", ","))
        place = Node(self.pick(v.SIMPLE_PREPOSITIONS), "IN").add("pobj", self.np(3))
        return clause.before_all("prep", place)

    def tags(self) -> Node:
        """ "red fox, snowy forest, pine trees, morning fog": a list without articles."""
        head = self.tag()
        for _ in range(self.rng.randint(1, 7)):
            head.add("punct", Node(",", ","))
            r = self.rng.random()
            if r < 0.82:
                head.add("appos", self.tag())
            elif r < 0.9:
                head.add("acl", self.verb_phrase("VBG", 3))
            elif r < 0.95:
                head.add("dep", self.adjective_phrase())
            else:
                head.add("prep", Node(self.pick(["in", "on", "with", "at", "by"]), "IN").add("pobj", self.tag()))
        return head

    def tag(self) -> Node:
        """One short phrase of a list, at times with what follows its noun."""
        node = self.np(3, det="" if self.chance(0.9) else None)
        r = self.rng.random()
        if r < 0.06:
            node.add("acl", self.verb_phrase("VBG", 3))
        elif r < 0.18:
            self.attach_place(node, 3, simple=True)
        elif r < 0.22:
            node.add("cc", Node("and", "CC")).add("conj", self.np(3, det=""))
        return node
