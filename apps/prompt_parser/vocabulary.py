"""The words that prompts of the grammar are made of: hand lists of common ones, WordNet for the rest."""

from __future__ import annotations

import random
from bisect import bisect
from collections import defaultdict
from itertools import accumulate
from pathlib import Path

from apps.prompt_parser.build_words import WORD, blocked_words


def words(text: str) -> list[str]:
    """The words of a list."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The phrases of a list, separated by bars."""
    return [phrase.strip() for phrase in text.split("|")]


COLOURS = words(
    """red orange yellow green blue purple pink brown gray grey black white teal turquoise violet beige golden silver
    gold cyan magenta crimson scarlet maroon navy olive tan ivory indigo lavender lilac amber bronze copper coral
    emerald aqua peach mint rose ruby cream khaki blond blonde"""
)
SHADES = words("light dark bright pale deep vivid soft dull neon pastel hot")
MATERIALS = words(
    """wood metal glass stone leather plastic paper cardboard brick steel iron cotton silk wool velvet marble concrete
    ceramic porcelain bamboo wicker clay rubber denim lace straw crystal gold silver bronze copper chrome granite
    felt fur oak pine tin linen satin nylon vinyl chocolate ice brass titanium aluminum slate terracotta suede tweed
    burlap cork wax sandstone mahogany walnut ebony rattan quartz jade pearl"""
)
ADJECTIVES = words(
    """big small large little tiny huge tall short long giant massive old new young ancient modern vintage antique cute
    beautiful pretty ugly happy sad angry sleepy tired fluffy furry hairy soft hard smooth shiny bright dark colorful
    colourful round square rectangular flat thin thick fat skinny slim wide narrow empty full open clean dirty messy
    busy crowded quiet wet dry hot cold warm cool fresh ripe raw rotten delicious sweet sour wooden metallic golden
    rusty dusty muddy sandy rocky snowy sunny cloudy foggy misty stormy rainy starry grassy leafy bare lush wild
    domestic adorable elegant fancy simple plain ornate detailed intricate magical mystical mysterious scary spooky
    creepy cheerful playful lazy brave strong weak fierce friendly royal medieval futuristic rustic urban rural
    tropical arctic exotic larger smaller bigger smallest largest biggest tallest darker brighter japanese chinese
    french italian american english african indian victorian gothic electric mechanical robotic spiky fuzzy curly
    straight wavy bald bearded transparent translucent glossy matte woolen horned winged hooded masked striped spotted
    checkered dotted plaid floral patterned polka-dotted oval triangular curved crooked sharp blunt heavy loose tight
    tiny tasty crispy juicy frozen deserted abandoned majestic serene peaceful gloomy dim lone single male female asian
    teal metal stone woody silky sleek bright-eyed left right upper lower top outdoor indoor public local jagged rough
    rugged bumpy coarse gritty gravelly rubbery leathery feathery velvety silken plush fleecy woolly prickly thorny
    sturdy fragile delicate slippery sticky gooey creamy crunchy flaky chewy tangy tart salty spicy bitter savory fizzy
    foamy bubbly shimmering gleaming hollow solid bulky chunky slender petite rectangular spherical cylindrical conical
    pyramidal hexagonal cubic circular pointy stubby shaggy scruffy grumpy shy curious gentle noisy loud silent swift
    slow rapid nimble clumsy mighty fearsome evil noble humble wealthy poor stern jolly famous ordinary plastic-free
    stylish luxurious cozy cosy spacious cramped tidy shabby dilapidated overgrown fertile barren steep shallow murky
    turbulent choppy frosty icy chilly sultry humid hazy radiant vibrant faint gaudy drab"""
)
PARTICIPLES = words(
    """painted carved broken cracked folded sliced chopped grilled fried baked roasted boiled peeled stuffed decorated
    polished parked stacked crushed torn wrinkled faded worn knitted woven embroidered quilted tiled paved
    illuminated lit tattooed costumed dressed armored caged leashed seated bent twisted tangled braided burnt burned
    melted toasted mashed skewered cluttered crowded covered closed opened framed wrapped fallen lost forgotten
    ruined enchanted haunted cursed animated stylized colored coloured tinted dyed stained washed brushed groomed
    trimmed rounded pointed ruffled pleated padded inflated deflated unmade unfinished cooked uncooked used"""
)
ING_ADJECTIVES = words(
    """running flying sleeping smiling laughing crying dancing jumping swimming walking sitting standing burning
    glowing shining sparkling floating falling rising setting melting dripping flowing blooming growing barking
    roaring galloping grazing rolling spinning swinging rocking folding playing working boiling steaming smoking
    towering winding charging charming stunning smirking hissing flapping resting"""
)
DEGREE = words(
    """very extremely quite rather really incredibly highly slightly somewhat fairly too so super pretty exceptionally
    remarkably surprisingly unusually almost mostly partially completely fully"""
)
MANNER = words(
    """brightly beautifully neatly heavily elaborately colorfully richly darkly lightly freshly newly intricately
    delicately softly dimly warmly poorly badly well finely roughly partly partially vividly boldly elegantly
    tightly loosely thickly sparsely densely highly brilliantly carefully crudely evenly lavishly smartly strangely"""
)
STYLED = words(
    """styled shaped colored coloured themed covered filled patterned eyed haired legged headed tailed winged lined
    topped coated striped inspired framed faced sized flavored scented lit painted dipped trimmed bodied armed nosed
    eared rimmed"""
)
OPEN_PARTICIPLES = words(
    """covered themed shaped filled lined topped coated colored styled inspired striped stained infested drenched
    soaked carved wrapped flavored powered free"""
)

ANIMALS = words(
    """cat dog bird bear lion horse elephant monkey frog turtle rabbit mouse cow sheep goat pig duck chicken fox wolf
    tiger zebra giraffe panda penguin owl parrot eagle dolphin whale shark fish octopus snake lizard crocodile spider
    butterfly bee ant deer moose squirrel hedgehog raccoon kitten puppy lamb pony donkey camel kangaroo koala gorilla
    chimpanzee leopard cheetah jaguar hippo rhino swan goose turkey peacock flamingo rooster crow pigeon seagull bat
    rat hamster beaver otter seal walrus crab lobster snail dragon unicorn dinosaur poodle corgi labrador bulldog bull
    calf hen chick ostrich pelican llama alpaca bison buffalo ox skunk mole sloth lemur toad salamander axolotl
    jellyfish starfish seahorse tortoise ladybug dragonfly moth grasshopper heron stork hawk falcon hummingbird
    woodpecker sparrow robin raven vulture caterpillar wasp beetle worm ferret weasel badger porcupine antelope gazelle
    coyote hyena mule ram foal piglet duckling gosling cub kit terrier beagle husky dachshund tabby shrimp squid oyster
    clam eel trout tuna goldfish iguana gecko chameleon cobra python phoenix griffin troll goblin"""
)
THINGS = words(
    """backpack glasses crown suitcase chair balloon bow car bowl bench clock apple table bed couch sofa lamp desk
    shelf door window wall fence house building tower bridge castle church barn cabin boat ship train truck bus
    bicycle bike motorcycle airplane plane helicopter rocket skateboard surfboard umbrella hat cap coat jacket shirt
    dress skirt pants jeans tie scarf shoe boot sock glove helmet mask ring necklace watch bag purse box basket
    bucket bottle cup mug glass plate tray spoon fork knife pan pot kettle vase candle mirror picture frame book
    newspaper magazine pen pencil phone laptop computer keyboard screen television camera guitar piano violin drum
    trumpet flute harp xylophone ball bat racket kite doll toy robot teddy puzzle flag sign banner statue fountain
    flower rose tulip daisy sunflower tree bush leaf branch grass rock mountain hill river lake sea ocean beach
    island forest field meadow garden park road street path sidewalk sky cloud sun moon star rainbow fire snow ice
    banana pear peach strawberry cherry grape lemon lime melon watermelon pineapple mango tomato potato carrot onion
    pepper broccoli corn pumpkin mushroom bread cake pie cookie donut pizza sandwich burger salad soup pasta noodle
    rice egg cheese butter chocolate candy coffee tea juice milk beer wine water toilet sink bathtub shower towel
    soap pillow blanket curtain rug carpet stove oven refrigerator microwave toaster hydrant taxi tractor wagon cart
    sled tent ladder hammer saw wrench anchor sword shield arrow bell key lock coin jewel diamond crystal trophy
    medal ribbon present gift sheet tablecloth napkin stool armchair rocking-chair t-shirt drawer cabinet dresser
    wardrobe staircase roof chimney balcony porch window-sill tusk horn tail wing paw collar leash saddle nest cage
    tank aquarium stump log feather shell pebble tile hallway kitchen bedroom bathroom room office restaurant store
    market station airport stadium court field counter floor ceiling corner background shadow reflection olive
    orange pancake waffle dish platter container jar lid lantern torch lighthouse windmill pyramid temple palace
    ruins skyline city town village skyscraper harbor pier dock canyon desert waterfall volcano cave jungle cliff
    valley fork spoon knife plate ladle whisk tongs eraser ruler scissors needle thread nail screw wheelbarrow
    shovel rake hoe axe plow barrel crate carton envelope stamp postcard map compass telescope microscope magnet
    headphones speaker radio stereo projector printer mailbox lamppost billboard banner streetlight crosswalk alley
    avenue highway tunnel viaduct railway track platform subway tram scooter van ambulance helicopter canoe kayak
    raft yacht ferry submarine sailboat spaceship satellite planet comet galaxy nebula bracelet earring brooch
    locket tiara veil gown tuxedo vest cardigan sweater hoodie apron overalls uniform costume robe cloak cape kimono
    sandal slipper boots mittens goggles bonnet beret turban backpack wallet briefcase toothbrush comb brush razor
    bandage thermometer stethoscope syringe wheelchair crutch stroller cradle crib playground seesaw trampoline
    carousel puppet marble chessboard dice card bagel croissant muffin cupcake pretzel popcorn fries hotdog taco
    burrito sushi ramen dumpling omelette cereal honey jam yogurt milkshake smoothie lemonade cocktail soda garlic
    ginger cucumber lettuce cabbage spinach eggplant zucchini avocado walnut acorn almond coconut papaya kiwi
    apricot fig blueberry raspberry fern moss vine ivy cactus orchid lily lotus blossom petal stem root seed hay
    straw log twig puddle stream pond creek bay lagoon reef shore dune glacier iceberg meadow prairie swamp cottage
    mansion hut shed garage greenhouse warehouse factory mill monastery cathedral mosque chapel shrine tomb throne
    altar stage theater cinema museum library school hospital bakery cafe diner pub bar market stall booth arena gym
    pool spa lobby attic basement cellar pantry closet driveway patio deck terrace railing gate arch column pillar
    dome spire shutter awning doorstep doormat blinds cushion mattress quilt hammock chandelier fireplace furnace
    radiator vent socket switch cable wire rope chain hook net trap fog mist storm lightning rainstorm breeze
    horizon dawn skyline silhouette flame smoke ember spark bubble balloon confetti firework sparkler"""
)
PEOPLE = words(
    """man woman boy girl child baby kid person lady guy king queen prince princess knight wizard witch pirate
    astronaut chef doctor nurse teacher soldier policeman fireman farmer cowboy ninja samurai clown dancer singer
    artist painter musician player skier surfer snowboarder skateboarder rider driver pilot sailor monk priest bride
    groom mother father grandmother grandfather brother sister friend couple family crowd group team warrior elf
    fairy mermaid angel vampire zombie skeleton alien superhero student scientist businessman waiter barista model
    teenager toddler hunter fisherman tourist passenger pedestrian officer guard worker batter pitcher catcher
    umpire spectator fisherwoman carpenter plumber mechanic tailor baker butcher gardener shepherd merchant vendor
    cashier librarian judge lawyer mayor president detective sheriff sailor captain archer gladiator viking jester
    magician acrobat juggler ballerina violinist pianist drummer guitarist conductor photographer sculptor potter
    blacksmith miner firefighter lifeguard paramedic surgeon dentist barber grandpa grandma uncle aunt niece nephew
    twin twins triplets neighbor guest host hiker climber runner jogger swimmer diver cyclist biker rower boxer
    wrestler golfer gymnast cheerleader referee coach goalie monk nun sultan emperor empress duke peasant beggar
    traveler pilgrim"""
)
BODY = words(
    """eyes hair face nose ears mouth teeth hand hands arm arms leg legs foot feet head neck back shoulder fur feathers
    wings tail horns beard mustache skin lips fingers paws claws beak mane whiskers eyebrows freckles"""
)
COMPOUNDS = phrases(
    """stop sign | street sign | traffic light | street light | parking meter | parking lot | fire hydrant | fire truck
    | bus stop | school bus | city street | city bus | train station | train track | baseball bat | baseball player
    | tennis racket | tennis ball | tennis court | soccer ball | soccer player | basketball court | cell phone |
    laptop computer | computer monitor | filing cabinet | file cabinet | trash can | garbage truck | living room |
    dining room | dining table | coffee table | coffee cup | tea cup | wine glass | beer bottle | water bottle |
    bathroom sink | kitchen sink | kitchen counter | shower curtain | window sill | picnic table | park bench |
    swimming pool | rocking chair | desk lamp | table lamp | floor lamp | alarm clock | clock tower | grandfather
    clock | teddy bear | stuffed animal | polar bear | hot dog | ice cream | birthday cake | wedding dress |
    christmas tree | palm tree | apple tree | oak tree | pine tree | fruit stand | fruit bowl | vegetable garden |
    flower pot | rose bush | police officer | police car | sports car | race car | toy car | toy train | steam train
    | pickup truck | delivery van | hot air balloon | sail boat | fishing boat | fishing rod | cruise ship | pirate
    ship | space ship | space suit | golf ball | golf club | ski slope | ski lift | snow board | surf board |
    cutting board | bread knife | butter knife | frying pan | tea pot | paper bag | plastic bag | shopping cart |
    sand castle | beach ball | beach towel | sun hat | straw hat | cowboy hat | party hat | top hat | baseball cap |
    rain coat | leather jacket | denim jacket | bow tie | wedding ring | gold chain | neon sign | brick wall | stone
    wall | picket fence | barbed wire | dirt road | country road | mountain range | ocean wave | stage light | light
    bulb | movie theater | book shelf | music stand | record player | street lamp | stone bridge | fire place"""
)
# Nouns that are colours or other adjectives, or verbs, elsewhere.
TWO_FACED = words(
    """orange orange orange rose peach plum lime olive violet lavender cream mint coral salmon turquoise square round
    oval metal plaid light glass drink drawing saw watch fly bat park water paint stamp cook guide guard iron plant
    duck swallow seal ring play dance walk dress bow"""
)
FOODS = words(
    """bread butter cheese tomato ham egg salt pepper lemon herb rice bean chicken mushroom apple cream milk bacon
    sausage onion garlic ginger honey sugar cinnamon oil vinegar peanut jelly strawberry banana chocolate vanilla
    lettuce beef turkey tuna potato spinach lime mint olive"""
)
NAMES = words(
    """emma john mary paris london tokyo eiffel einstein obama batman superman spiderman mario pikachu harry potter
    elsa venice rome egypt brooklyn manhattan disney pixar tesla ferrari volkswagen nike coca-cola monet picasso
    vermeer rembrandt greg rutkowski mucha alphonse hokusai kyoto amsterdam broadway everest fuji sydney berlin
    chicago texas california hollywood hogwarts godzilla yoda vader santa claus christmas halloween emily watson
    elon musk james brown big ben golden gate taj mahal grand canyon niagara notre dame buckingham central bruce lee
    marilyn monroe"""
)
MEASURES = words(
    """piece slice bunch bowl cup glass bottle basket box plate pile stack group pair herd flock row bouquet bag bucket
    can jar jug mug pot tray set handful crowd line couple school pack team kind type bundle cluster variety
    collection display lot array loaf slab chunk flight swarm sheet"""
)
MEDIA = words(
    """photo photo photograph picture image painting painting painting drawing sketch illustration portrait watercolor
    render rendering view closeup close-up shot sculpture statue poster cartoon scene print mosaic engraving
    depiction movie logo icon landscape selfie snapshot figurine concept artwork mural"""
)
MEDIA_MODIFIERS = words("oil digital pencil watercolor charcoal ink acrylic concept stock 3d vector crayon pixel film")
STYLE_TAILS = phrases(
    """digital art | oil painting | concept art | soft lighting | cinematic lighting | studio lighting | sharp focus |
    high resolution | dramatic light | golden hour | film grain | wide angle | bokeh | masterpiece | vector art |
    pixel art | line art | cartoon style | anime style | comic book | watercolor painting | pencil sketch | street
    photography | national geographic | vibrant colors | muted colors | white background | black background | warm
    colors | natural light | fine details | low poly | octane render | unreal engine | shallow depth of field | pop
    art | studio photo | product photography | best quality"""
)
STYLE_ADJECTIVES = phrases(
    """highly detailed | photorealistic | realistic | hyperrealistic | cinematic | minimalist | surreal | ultra
    detailed | intricate | elegant | 4k | 8k | hd | uhd | very detailed | beautiful | sharp | colorful | dreamy |
    isometric | black and white"""
)

SIMPLE_PREPOSITIONS = words(
    """in on at by near under over with behind beside above below inside outside around along across against through of
    from into onto between among beneath underneath beyond toward towards without off atop amid like past for during
    upon"""
)
COMPLEX_PREPOSITIONS = phrases(
    """in front of | in front of | on top of | on top of | in back of | in the middle of | in the center of | in the
    centre of | on the left of | on the right of | on the side of | to the left of | to the right of | at the edge
    of | by the side of | on the left side of | on the right side of | at the top of | at the bottom of | on the
    edge of | on the other side of | at the end of | at the foot of | in the corner of | in the background of | on
    the back of"""
)
ADVERB_PREPOSITIONS = phrases(
    "next to|next to|next to|close to|adjacent to|out of|outside of|inside of|away from|across from"
)
ADVERBS_OF_PLACE = words(
    """outside inside outdoors indoors nearby underwater upside-down overhead together alone asleep away there here
    sideways upstairs downstairs upright"""
)
COMMON_TRANSITIVE = words(
    """wear hold ride carry eat drink play watch throw catch kick hit cut read paint push pull feed use fly drive walk
    brush touch make pour build cross chase pet cook wash show cover"""
)
COMMON_INTRANSITIVE = words(
    """sit stand lie lay lean rest sleep walk run jump fly swim float hang perch pose look play wait move travel drive
    ride grow climb roll fall shine glow stop bark swing dance smile graze pass"""
)
TRANSITIVE = COMMON_TRANSITIVE * 4 + words(
    """wear hold ride carry eat drink play watch hug kiss chase pull push lift throw catch kick hit swing cut cook
    prepare serve read write paint draw use fly drive push feed pet walk wash clean brush touch bite chew lick smell
    sniff drag build make fix open close fill cover surround face approach enter cross climb display show feature
    contain have give take bring pour grab grip balance guard protect hunt photograph admire examine pick gather
    cross nuzzle steal block sell buy grow share toss wave raise follow juggle stir sip taste bake fry knit sew mow
    repair polish inspect stroke sort tie water plow sweep plant dig spray squeeze stack unpack load sign hammer paddle
    row steer lick shear milk groom harvest knead decorate celebrate greet help teach interview arrest rescue attack
    support cast reflect deliver drop spill shake wrap unwrap fold hang iron rinse scrub mop shovel rake carve chop
    slice peel roast grill deal flip inflate launch film record press ring spot trim chop scatter light hoist drain
    tow crush devour nibble peck tug hug balance strum beat conduct lead herd surround bury"""
)
INTRANSITIVE = COMMON_INTRANSITIVE * 4 + words(
    """sit stand lie lay lean rest sleep walk run jump fly swim float hang perch crouch kneel pose stare look gaze
    smile laugh cry dance sing play grow bloom rise fall shine glow burn drift travel move wait work grazing roll
    slide climb crawl hop leap dive spin swing hover lounge relax nap stroll wander march skate ski surf snowboard
    sail talk point peek hide emerge glide graze roam bathe tower howl bark meow roar growl trot gallop sneak creep
    soar swoop yawn stretch shout whisper whistle blow flow rush chat meditate dine blink wave wink nod snore sneeze
    pant purr hum splash tumble wobble sway flutter flicker sparkle glisten gleam glitter shimmer fade melt freeze
    burst explode collapse break crack crash sink drip trickle spill pour bubble boil steam smoke orbit circle race
    sprint jog trudge limp tiptoe scamper scurry slither waddle crouch squat kneel bow wade paddle dive surface land
    park stop pause begin arrive leave depart return pass cross turn lurk loom linger shiver tremble bask doze
    snuggle cuddle huddle gather queue line work study shop skateboard rest belong rush scramble zoom speed sail
    shelter live"""
)
PASSIVE = words(
    """park cover fill decorate surround make paint seat tie attach mount stack place wrap dress lock leave arrange
    carve pile line stick build set put hang display serve store top sprinkle draw prepare slice light curl chain
    stuff plant bury plug spread scatter position lay hang tuck strap load equip adorn drape"""
)
LINKED = phrases(
    "covered in|covered with|filled with|made of|made from|surrounded by|decorated with|topped with|dressed in"
)
GIVING = words("feed give hand show throw pass offer bring sell serve teach read toss send lend deliver pour")
COMPARATIVES = words("larger smaller bigger taller shorter older younger darker brighter longer wider heavier newer")
CONJUNCTIONS = words("while while as as when because until before after where")
DETERMINERS = words("this that some another each no these any every all both")
SMALL_NUMBERS = words("two three four five six seven eight nine ten eleven twelve")
TENS = words("twenty thirty forty fifty sixty seventy eighty ninety")
NUMERALS = [
    *SMALL_NUMBERS * 3, *SMALL_NUMBERS[:4] * 2, *TENS,
    *words("thirteen fourteen fifteen sixteen seventeen eighteen nineteen 2 3 4 5 6 7 8 9 10 12 15 20 100"),
]  # fmt: skip
TIMES = words("night night sunset sunrise dawn dusk noon midnight daytime twilight christmas winter summer")
ING_COMPOUNDS = words(
    """swimming dining sleeping running washing frying fishing wedding shopping rocking building painting sewing
    cutting boxing hiking racing skating reading living parking vending knitting wrapping"""
)
PARTICLES = words("up down out over around off away along back by together")
ONSETS = words("b bl br c ch cr d dr f fl g gl gr h j k l m n p pl pr qu r s sh sk sl sp st t tr v w y z")
VOWELS = words("a e i o u ai ea ee oo ou")
CODAS = ["", "", "", *words("n r l m t k p x rn nt st sh ng")]

# WordNet's lexicographer files of nouns, with the share each gets among the nouns drawn from WordNet.
NOUN_FILES = {5: 18, 6: 30, 8: 4, 13: 10, 15: 3, 17: 6, 18: 12, 19: 2, 20: 7, 27: 3, 14: 2, 10: 2, 4: 2, 11: 1, 7: 1}


class Vocabulary:
    """Draws words with a seeded generator."""

    def __init__(self, wordnet: Path, rng: random.Random):
        self.rng = rng
        blocked = blocked_words(wordnet)
        weights: dict[object, dict[str, float]] = defaultdict(dict)
        for line in (wordnet / "cntlist.rev").read_text().splitlines():
            key, _, count = line.split()
            lemma, _, sense = key.partition("%")
            kind, file = sense.split(":")[:2]
            group = int(file) if kind == "1" else {"2": "v", "3": "a", "4": "r", "5": "a"}[kind]
            if WORD.fullmatch(lemma) and lemma not in blocked and len(lemma) > 2:
                weights[group][lemma] = max(weights[group].get(lemma, 0), int(count) ** 0.5)
        for line in (wordnet / "data.noun").read_text().splitlines():
            fields = line.split()
            if line.startswith("  ") or int(fields[1]) not in NOUN_FILES:
                continue
            for lemma in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
                if WORD.fullmatch(lemma) and lemma not in blocked and len(lemma) > 2:
                    weights[int(fields[1])].setdefault(lemma, 0.3)
        self._tables = {group: (list(words), list(accumulate(words.values()))) for group, words in weights.items()}

    def wordnet(self, group: object) -> str:
        """A word of one of WordNet's groups: a noun file's number, "v", "a" or "r"."""
        words, totals = self._tables[group]
        return words[bisect(totals, self.rng.random() * totals[-1])]

    def noun(self) -> str:
        """A singular noun: usually a common one, else from WordNet, else made up."""
        r = self.rng.random()
        if r < 0.03:
            return self.rng.choice(TWO_FACED)
        if r < 0.67:
            return self.rng.choice(self.rng.choices((ANIMALS, THINGS, PEOPLE, BODY), (25, 50, 20, 5))[0])
        if r < 0.92:
            return self.wordnet(self.rng.choices(list(NOUN_FILES), list(NOUN_FILES.values()))[0])
        return self.made_up()

    def adjective(self) -> str:
        r = self.rng.random()
        if r < 0.35:
            return self.rng.choice(COLOURS)
        if r < 0.7:
            return self.rng.choice(ADJECTIVES)
        if r < 0.95:
            return self.wordnet("a")
        return self.made_up() + self.rng.choice(["", "y", "ish", "ous", "ful", "al", "ic"])

    def made_up(self) -> str:
        """A word that does not exist, of two or three syllables."""
        pick = self.rng.choice
        return "".join(pick(ONSETS) + pick(VOWELS) + pick(CODAS) for _ in range(pick([1, 2, 2, 2, 3])))
