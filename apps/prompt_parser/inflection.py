"""Forms of English nouns and verbs."""

from __future__ import annotations

IRREGULAR = {
    "wear": ("wore", "worn"), "hold": ("held", "held"), "ride": ("rode", "ridden"), "eat": ("ate", "eaten"),
    "drink": ("drank", "drunk"), "throw": ("threw", "thrown"), "catch": ("caught", "caught"), "hit": ("hit", "hit"),
    "swing": ("swung", "swung"), "cut": ("cut", "cut"), "read": ("read", "read"), "write": ("wrote", "written"),
    "draw": ("drew", "drawn"), "fly": ("flew", "flown"), "drive": ("drove", "driven"), "feed": ("fed", "fed"),
    "bite": ("bit", "bitten"), "build": ("built", "built"), "make": ("made", "made"), "show": ("showed", "shown"),
    "have": ("had", "had"), "give": ("gave", "given"), "take": ("took", "taken"), "bring": ("brought", "brought"),
    "steal": ("stole", "stolen"), "sit": ("sat", "sat"), "stand": ("stood", "stood"), "lie": ("lay", "lain"),
    "lay": ("laid", "laid"), "sleep": ("slept", "slept"), "run": ("ran", "run"), "swim": ("swam", "swum"),
    "hang": ("hung", "hung"), "kneel": ("knelt", "knelt"), "sing": ("sang", "sung"), "grow": ("grew", "grown"),
    "rise": ("rose", "risen"), "fall": ("fell", "fallen"), "shine": ("shone", "shone"), "leap": ("leapt", "leapt"),
    "hide": ("hid", "hidden"), "spin": ("spun", "spun"), "sell": ("sold", "sold"), "buy": ("bought", "bought"),
    "leave": ("left", "left"), "set": ("set", "set"), "put": ("put", "put"), "stick": ("stuck", "stuck"),
    "light": ("lit", "lit"), "spread": ("spread", "spread"), "put-on": ("put", "put"), "sink": ("sank", "sunk"),
    "ring": ("rang", "rung"), "blow": ("blew", "blown"), "break": ("broke", "broken"),
    "freeze": ("froze", "frozen"), "burst": ("burst", "burst"), "dig": ("dug", "dug"),
    "teach": ("taught", "taught"), "shake": ("shook", "shaken"), "lead": ("led", "led"), "deal": ("dealt", "dealt"),
    "cast": ("cast", "cast"), "beat": ("beat", "beaten"), "speed": ("sped", "sped"), "begin": ("began", "begun"),
    "send": ("sent", "sent"), "lend": ("lent", "lent"), "see": ("saw", "seen"), "go": ("went", "gone"),
    "come": ("came", "come"), "do": ("did", "done"), "say": ("said", "said"), "get": ("got", "gotten"),
    "find": ("found", "found"), "think": ("thought", "thought"), "know": ("knew", "known"),
    "tell": ("told", "told"), "become": ("became", "become"), "keep": ("kept", "kept"), "feel": ("felt", "felt"),
    "let": ("let", "let"), "lose": ("lost", "lost"), "meet": ("met", "met"), "speak": ("spoke", "spoken"),
    "pay": ("paid", "paid"), "hear": ("heard", "heard"), "win": ("won", "won"),
    "understand": ("understood", "understood"), "choose": ("chose", "chosen"), "fight": ("fought", "fought"),
    "shoot": ("shot", "shot"), "strike": ("struck", "struck"), "tear": ("tore", "torn"), "weave": ("wove", "woven"),
    "creep": ("crept", "crept"), "sweep": ("swept", "swept"), "wake": ("woke", "woken"), "wind": ("wound", "wound"),
    "forget": ("forgot", "forgotten"), "shut": ("shut", "shut"), "split": ("split", "split"),
    "dwell": ("dwelt", "dwelt"), "arise": ("arose", "arisen"), "bend": ("bent", "bent"), "bind": ("bound", "bound"),
    "sting": ("stung", "stung"), "cling": ("clung", "clung"), "fling": ("flung", "flung"),
    "slide": ("slid", "slid"), "stride": ("strode", "stridden"), "mean": ("meant", "meant"),
    "spend": ("spent", "spent"), "hurt": ("hurt", "hurt"), "seek": ("sought", "sought"), "sew": ("sewed", "sewn"),
    "mow": ("mowed", "mown"), "knit": ("knitted", "knitted"), "weep": ("wept", "wept"),
}  # fmt: skip
PLURALS = {
    "man": "men", "woman": "women", "child": "children", "person": "people", "mouse": "mice", "goose": "geese",
    "foot": "feet", "tooth": "teeth", "sheep": "sheep", "deer": "deer", "fish": "fish", "moose": "moose", "ox": "oxen",
    "leaf": "leaves", "wolf": "wolves", "knife": "knives", "shelf": "shelves", "calf": "calves", "elf": "elves",
    "scarf": "scarves", "policeman": "policemen", "fireman": "firemen", "fisherman": "fishermen",
    "businessman": "businessmen", "bison": "bison", "glasses": "glasses", "pants": "pants", "jeans": "jeans",
    "ruins": "ruins", "salmon": "salmon", "loaf": "loaves", "hoof": "hooves",
}  # fmt: skip


def plural(noun: str) -> str:
    """cats, boxes, cherries, mice."""
    return PLURALS.get(noun) or _with_s(noun)


def third_person(verb: str) -> str:
    """eats, watches, flies, has."""
    return {"have": "has", "go": "goes", "do": "does"}.get(verb) or _with_s(verb)


def _with_s(word: str) -> str:
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return word[:-1] + "ies"
    return word + "s"


def ing_form(verb: str) -> str:
    """eating, riding, sitting, lying."""
    if verb.endswith("ie"):
        return verb[:-2] + "ying"
    if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")):
        return verb[:-1] + "ing"
    return verb + (verb[-1] if _doubles(verb) else "") + "ing"


def past_forms(verb: str) -> tuple[str, str]:
    """Past tense and past participle."""
    if verb in IRREGULAR:
        return IRREGULAR[verb]
    if verb.endswith("e"):
        return verb + "d", verb + "d"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return verb[:-1] + "ied", verb[:-1] + "ied"
    form = verb + (verb[-1] if _doubles(verb) else "") + "ed"
    return form, form


def _doubles(verb: str) -> bool:
    """sit(t)ing: one vowel before one final consonant in a one-syllable verb."""
    vowels = [c in "aeiou" for c in verb]
    return len(verb) > 2 and sum(vowels) == 1 and vowels[-2] and verb[-1] not in "wxyaeiou"
