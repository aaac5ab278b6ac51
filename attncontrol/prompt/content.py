"""Which of the things that a prompt names are to be drawn: not its medium, style or view, and not what it negates."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from attncontrol.prompt.align import Span
from attncontrol.prompt.structure import Entity, LeftOut, PromptStructure, Word
from attncontrol.prompt.subjects import FUNCTION_WORDS

# What a picture is made in. These may be things as well: "a painting next to a bee".
MEDIA = (
    r"(?:photos?|photographs?|photography|pics?|pictures?|images?|paintings?|drawings?|sketch(?:es)?|illustrations?"
    r"|renders?|renderings?|renditions?|depictions?|portraits?|portraiture|close[- ]?ups?|shots?|snapshots?|selfies?"
    r"|polaroids?|daguerreotypes?|views?|scenes?|stills?|screenshots?|artworks?|art|arts|artstyle|watercolou?rs?"
    r"|aquarelles?|gouache|cartoons?|comics?|manga|anime|posters?|doodles?|engravings?|etchings?|lithographs?"
    r"|woodcuts?|linocuts?|prints?|collages?|frescos?|murals?|caricatures?|panoramas?|clip-?arts?|cliparts?"
    r"|wallpapers?|vectors?|logos?|icons?|emojis?|stickers?|footage|videos?|cgi|mosaics?|pastels?|scribbles?"
    r"|graphics?|pixelart|visualizations?|impressions?|compositions?|concepts?|stencils?|storyboards?|diagrams?"
    r"|silhouettes?|line-?art|macros?|angles?)"
)
# What describes a picture and is no thing in it.
QUALITIES = (
    r"(?:backgrounds?|backdrops?|foregrounds?|bokeh|lighting|styles?|aesthetics?|close-?ups?|closeups?|views?|viewpoints?"
    r"|perspectives?|quality|qualities|resolutions?|details?|focus|masterpieces?|artstation|deviantart|pixiv|behance"
    r"|cgsociety|unsplash|pinterest|flickr|4k|8k|16k|hd|uhd|hdr|dslr|exposures?|contrast|saturation|vignettes?"
    r"|photorealism|realism|hyperrealism|surrealism|impressionism|expressionism|cubism|minimalism|photography|cgi"
    r"|cinematography|composition|symmetry|raytracing|ray-tracing|grain|atmosphere|mood|vibes?|ambian?ce|palettes?"
    r"|colou?rs?|tones?|gradients?|angles?|apertures?|scenes?)"
)
# What describes a picture where it stands in a part of the prompt of its own: "a cat, soft light".
TAG = (
    rf"(?:{MEDIA}|{QUALITIES}|(?:oil|ink|pencil|charcoal|acrylics?|crayon|chalk) on (?:canvas|paper|board|wood)"
    r"|depth of field|rule of thirds|trending on \w+|(?:unreal|blender|octane|vray|v-ray|cinema4d|unity)"
    r"(?: engine)?(?: \d+)?|engine|(?:\d+ ?mm|wide[- ]angle|fisheye|telephoto|prime|macro|zoom)(?: lens)?"
    r"|(?:golden|blue|magic) hour|shot on .*|taken (?:with|by|on) .*|(?:soft|natural|volumetric|cinematic|dramatic"
    r"|studio|warm|cold|ambient|rim|morning|evening|golden|diffuse|hard|moody|bright|neon|back|day|sun)[ -]?"
    r"(?:lights?|rays|shadows?|sunlight)|(?:\w+ )?(?:canon|nikon|leica|kodak|fujifilm|hasselblad)\b.*|film grain"
    r"|iso ?\d+|f/?\d.*|award[- ]winning|award winner|textures?|noise)"
)
START = r"\s*(?:[\"'“(]\s*)?(?:(?:this|here|it|there)(?:\s+is|'s|’s)\s+)?"
ASIDE = (
    r"(?:\s+(?:in|with)\s+(?:black and white|colou?r|sepia|monochrome)|\s+in\s+(?:the\s+)?(?:[\w'-]+\s+){0,3}style"
    r"(?:\s+of\s+[\w'. -]+?)?|\s+by\s+[\w'. -]+?|\s+(?:taken|shot|seen)\s+(?:from|at|in|on)\s+[\w' -]+?"
    r"|\s+from\s+(?:above|below|behind|afar|the\s+(?:front|side|back|air|top|left|right)))?"
)
HEADING = re.compile(
    rf"{START}(?:[\w'’.-]+\s+){{0,7}}?{MEDIA}{ASIDE}\s*(?:\s+of(?!\s+(?:art|view)\b)"
    r"|\s+(?:that\s+|which\s+)?(?:shows?|showing|depicts?|depicting|features?|featuring|portrays?|portraying"
    r"|displaying|represents?|representing|captures?|capturing|contains?|containing|includes?|including)"
    r"|\s+(?:in|on)\s+which|\s+where\b|:)",
    re.IGNORECASE,
)
WITH = re.compile(
    rf"{START}(?:[\w'’-]+\s+){{0,5}}?(?:photo|photograph|image|picture|pic|illustration|shot|scene|snapshot)s?"
    r"\s+with\b",
    re.IGNORECASE,
)
IN_THE_STYLE_OF = re.compile(
    r"\b(?:in|with|using|after|following)?\s*(?:the\s+)?(?:\w+\s+)?(?:styles?|manner|fashion|spirit|aesthetics?)"
    r"\s+of\b.*|(?:^|\s)(?:inspired\s+by|(?:art|artwork|painted|drawn|illustrated|photographed|directed|designed|"
    r"made)\s+by|in\s+the\s+vein\s+of)\b.*",
    re.IGNORECASE,
)
BY_NAME = re.compile(r"\bby(?:\s+(?:[A-Z][\w.'’-]*|van|von|de|da|del|and))+\s*$")
BY_ARTIST = re.compile(r"\s*by\s+(?!an?\b|the\b|his\b|her\b|its\b|their\b|some\b|two\b|night\b).*", re.IGNORECASE)
ENDING = re.compile(
    rf"\b(?:in|as|on)\s+(?:(?:an?|the|this|that|style of)\s+)?(?:[\w'’-]+\s+){{0,4}}?{MEDIA}\s*[.!]?\s*$",
    re.IGNORECASE,
)
SEGMENT = re.compile(r"(?:[^,;|\n.!?]|(?<=\w)[.,](?=\w))+")

NEGATION = re.compile(
    r"(?<![\w-])(?:no\s+(?:signs?|traces?)\s+of|none\s+of|hardly\s+any|unaccompanied\s+by|no|not|without(?:\s+any)?"
    r"|w/o|sans|minus|never|nor|neither|zero|lacks?|lacking|excludes?|excluding"
    r"|except(?:\s+for)?|instead\s+of|rather\s+than|in\s+place\s+of|(?:free|devoid|void|empty|clear|rid|bare)\s+(?:of|from)"
    r"|(?:in\s+)?(?:the\s+)?(?:absence|lack)\s+of|avoid(?:ing)?|missing|cannot|\w+n['’]t)(?![\w-])",
    re.IGNORECASE,
)
AFFIRMED = re.compile(
    r"\s*(?:only|just|merely|simply|far|fewer|less|more|matter|doubt|longer|to\s+mention|other\s+than|one\s+but"
    r"|long|unlike|quite|a\s+single\s+doubt)\b",
    re.IGNORECASE,
)
NAMED = re.compile(r"\b(?:an?|the|if|or)\s+[\"'“‘]?$", re.IGNORECASE)  # "a no parking sign", "a not red car"
CLAUSE_END = re.compile(r"[,;:.!?|]|\b(?:but|and|with|while|that|which|who|near|beside|next|behind)\b", re.IGNORECASE)
OR = re.compile(r"\s*,?\s*(?:and/or|or|nor)\s+(?:(?:an?|the|any|even|no)\s+)?", re.IGNORECASE)
JOINED = re.compile(r"\s*(?:,?\s*(?:and|&)|of)\s+(?:any\s+)?", re.IGNORECASE)
LISTED = re.compile(r"\s*,\s*(?:(?:an?|any|the)\s+)?", re.IGNORECASE)
NOT_BEFORE = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bnon|\bneither|\bnor)[\s-]+(?:(?:very|so|too|all)\s+)?$", re.IGNORECASE
)


def drawn(structure: PromptStructure) -> PromptStructure:
    """The structure with the things to be drawn as its entities and the others in `left_out`.

    Media, styles, qualities and views are left out where they head or trail the description ("a photo of a cat, oil
    on canvas, bokeh"), unless there is nothing else; negated things ("no dog", "without cars") always are. A negated
    modifier ("a car that is not red") is taken from its entity.
    """
    prompt = structure.prompt
    cues = [match.span() for match in NEGATION.finditer(prompt)]
    entities = [entity for found in structure.entities if (entity := _without_cue(found, cues))]
    negated = _negated(prompt, entities)
    present = [entity for entity in entities if entity not in negated]
    described = _descriptions(prompt, present)
    if len(described) == len(present):
        described = []
    kept = tuple(_affirmed(prompt, e) for e in present if e not in described)
    reasons = [(e, "negated" if e in negated else "describes the picture") for e in entities]
    left_out = tuple(LeftOut(e.noun, why) for e, why in reasons if e in negated or e in described)
    return dataclasses.replace(structure, entities=kept, left_out=left_out)


def _descriptions(prompt: str, entities: Sequence[Entity]) -> list[Entity]:
    """The entities that say what the picture is made in, or how it looks."""
    found: list[Entity] = []
    for segment in SEGMENT.finditer(prompt):
        inside = [e for e in entities if segment.start() <= e.noun.span[0] < segment.end()]
        spans = _described_spans(segment[0], [e.noun.span[0] - segment.start() for e in inside])
        for entity in inside:
            at = entity.noun.span[0] - segment.start()
            if any(start <= at < end for start, end in spans) or _is(QUALITIES, entity.noun.text):
                found.append(entity)
    return found


def _described_spans(segment: str, nouns: Sequence[int]) -> list[Span]:
    """Stretches of a part of the prompt that hold no thing: `nouns` are where its nouns begin."""
    if _is_tag(segment):
        return [(0, len(segment))]
    headings = filter(None, (pattern.match(segment) for pattern in (HEADING, WITH)))
    end = next((h.end() for h in headings if _begins_with_medium(segment, h.end(), nouns)), 0)
    trailing = (p.search(segment, end) for p in (IN_THE_STYLE_OF, BY_NAME, ENDING))
    by_artist = None if end else BY_ARTIST.fullmatch(segment)
    return [(0, end), *(match.span() for match in (*trailing, by_artist) if match)]


def _begins_with_medium(segment: str, end: int, nouns: Sequence[int]) -> bool:
    """Whether the first noun of a heading is its medium: in "a man taking photos of a cat" it is not."""
    first = min((at for at in nouns if at < end), default=None)
    return first is None or bool(re.match(rf"{MEDIA}(?![\w'’])", segment[first:], re.IGNORECASE))


def _is_tag(segment: str) -> bool:
    """Whether a part of the prompt is one description: "highly detailed digital art", "an oil painting".

    An article and a medium alone are a thing: "a bed, a painting".
    """
    text = " ".join(re.sub(r"[()\"'“”]", " ", segment).split())
    tag = re.fullmatch(rf"(?P<article>(?:an?|the)\s+)?(?P<before>(?:[\w'’:/-]+\s+){{0,4}}?){TAG}", text, re.IGNORECASE)
    if not tag or (tag["article"] and not tag["before"] and _is(MEDIA, text.split()[-1])):
        return False
    return not FUNCTION_WORDS.intersection(tag["before"].lower().split()) - {"and"}


def _is(pattern: str, word: str) -> bool:
    return re.fullmatch(pattern, word, re.IGNORECASE) is not None


def _negated(prompt: str, entities: Sequence[Entity]) -> list[Entity]:
    """The entities that the prompt says are not there."""
    found: list[Entity] = []
    for cue in NEGATION.finditer(prompt):
        if AFFIRMED.match(prompt, cue.end()) or NAMED.search(prompt[: cue.start()]):
            continue
        after = [entity for entity in entities if entity.noun.span[0] >= cue.end()]
        modified = [m.span for e in entities if e not in after[:1] for m in e.modifiers]
        directly = re.compile(r"\s*(?:very|so|too)?\s*").match(prompt, cue.end()).end()
        if not after or any(start <= directly < end for start, end in modified):
            continue  # "a car that is not red": the adjective is negated
        if not CLAUSE_END.search(prompt[cue.end() : _start(after[0])]):
            found += _coordinated(prompt, after)
    return found


def _without_cue(entity: Entity, cues: Sequence[Span]) -> Entity | None:
    """The entity, or what is left of it where a word of a negation was read as its noun: "a room devoid of"."""

    def is_cue(word: Word) -> bool:
        return any(start <= word.span[0] and word.span[1] <= end for start, end in cues)

    if not is_cue(entity.noun):
        return entity
    *modifiers, noun = [word for word in entity.modifiers if not is_cue(word)] or [None]
    return noun and Entity(noun, tuple(modifiers))


def _coordinated(prompt: str, entities: Sequence[Entity]) -> list[Entity]:
    """The first entity and its partners: "cars, bikes or people", "cats and dogs"."""
    chain, sure = [entities[0]], 1
    for entity in entities[1:]:
        gap = prompt[chain[-1].noun.span[1] : _start(entity)]
        if not any(pattern.fullmatch(gap) for pattern in (OR, JOINED, LISTED)):
            break
        chain.append(entity)
        if not LISTED.fullmatch(gap) and (OR.fullmatch(gap) or sure == len(chain) - 1):
            sure = len(chain)
    return chain[:sure]


def _start(entity: Entity) -> int:
    spans = [word.span[0] for word in (*entity.modifiers, entity.noun) if word.span]
    return min(spans)


def _affirmed(prompt: str, entity: Entity) -> Entity:
    """The entity without negations among its modifiers, and without what directly follows one."""
    kept = tuple(
        m for m in entity.modifiers if not NEGATION.fullmatch(m.text) and not NOT_BEFORE.search(prompt[: m.span[0]])
    )
    return dataclasses.replace(entity, modifiers=kept)
