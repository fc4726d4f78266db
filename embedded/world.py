# SPDX-License-Identifier: Apache-2.0
"""The micro-world: every fact that the embedded model is taught, as compact tables.

All tables are plain data. A table row is written `key:value[:value...]`, rows are separated by `;` or by spaces; the
helpers below turn them into tuples and dictionaries once, at import.
"""

from __future__ import annotations

from typing import NamedTuple


class Word(NamedTuple):
    """An English word with its Spanish and French translation."""

    english: str
    spanish: str
    french: str

    def into(self, language: str) -> str:
        """Return the translation into `Spanish` or `French`."""
        return self.spanish if language == "Spanish" else self.french


class Country(NamedTuple):
    """A country with the three things that are asked about it."""

    name: str
    capital: str
    continent: str
    language: str


def _pairs(table: str) -> dict[str, str]:
    """Parse `a:b c:d` into a dictionary; an underscore stands for a space."""
    rows = (row.replace("_", " ").split(":") for row in table.split())
    return {key: value for key, value in rows}


def _groups(table: str) -> dict[str, list[str]]:
    """Parse one `name: member member ...` a line into lists."""
    lines = (line.split(":") for line in table.strip().splitlines())
    return {name.strip(): members.split() for name, members in lines}


LANGUAGES = ("Spanish", "French")

WORDS = [
    Word(*row.split(":"))
    for row in """
    dog:perro:chien cat:gato:chat horse:caballo:cheval cow:vaca:vache bird:pájaro:oiseau fish:pez:poisson
    pig:cerdo:cochon sheep:oveja:mouton duck:pato:canard mouse:ratón:souris lion:león:lion wolf:lobo:loup
    bear:oso:ours rabbit:conejo:lapin bread:pan:pain milk:leche:lait cheese:queso:fromage egg:huevo:oeuf
    apple:manzana:pomme water:agua:eau wine:vino:vin salt:sal:sel sugar:azúcar:sucre meat:carne:viande
    rice:arroz:riz soup:sopa:soupe pear:pera:poire cherry:cereza:cerise lemon:limón:citron grape:uva:raisin
    onion:cebolla:oignon carrot:zanahoria:carotte tomato:tomate:tomate house:casa:maison table:mesa:table
    chair:silla:chaise door:puerta:porte window:ventana:fenêtre bed:cama:lit book:libro:livre key:llave:clé
    knife:cuchillo:couteau spoon:cuchara:cuillère cup:taza:tasse plate:plato:assiette shirt:camisa:chemise
    shoe:zapato:chaussure hat:sombrero:chapeau coat:abrigo:manteau bridge:puente:pont street:calle:rue
    church:iglesia:église school:escuela:école car:coche:voiture train:tren:train ship:barco:bateau
    plane:avión:avion wheel:rueda:roue clock:reloj:horloge letter:carta:lettre sun:sol:soleil moon:luna:lune
    star:estrella:étoile sky:cielo:ciel sea:mar:mer river:río:fleuve tree:árbol:arbre flower:flor:fleur
    stone:piedra:pierre fire:fuego:feu snow:nieve:neige rain:lluvia:pluie wind:viento:vent island:isla:île
    forest:bosque:forêt mountain:montaña:montagne hand:mano:main foot:pie:pied head:cabeza:tête eye:ojo:oeil
    nose:nariz:nez mouth:boca:bouche heart:corazón:coeur arm:brazo:bras ear:oreja:oreille king:rey:roi
    queen:reina:reine man:hombre:homme woman:mujer:femme boy:niño:garçon girl:niña:fille friend:amigo:ami
    brother:hermano:frère sister:hermana:soeur father:padre:père mother:madre:mère red:rojo:rouge green:verde:vert
    white:blanco:blanc black:negro:noir yellow:amarillo:jaune blue:azul:bleu day:día:jour night:noche:nuit
    year:año:année month:mes:mois week:semana:semaine
    """.split()
]

COUNTRIES = [
    Country(*row.replace("_", " ").split(":"))
    for row in """
    France:Paris:Europe:French Spain:Madrid:Europe:Spanish Italy:Rome:Europe:Italian Germany:Berlin:Europe:German
    Portugal:Lisbon:Europe:Portuguese Norway:Oslo:Europe:Norwegian Sweden:Stockholm:Europe:Swedish
    Finland:Helsinki:Europe:Finnish Denmark:Copenhagen:Europe:Danish Poland:Warsaw:Europe:Polish
    Greece:Athens:Europe:Greek Hungary:Budapest:Europe:Hungarian Austria:Vienna:Europe:German
    Ireland:Dublin:Europe:English England:London:Europe:English Russia:Moscow:Europe:Russian
    Turkey:Ankara:Asia:Turkish Romania:Bucharest:Europe:Romanian Bulgaria:Sofia:Europe:Bulgarian
    Iceland:Reykjavik:Europe:Icelandic Albania:Tirana:Europe:Albanian Croatia:Zagreb:Europe:Croatian
    Egypt:Cairo:Africa:Arabic Kenya:Nairobi:Africa:Swahili Morocco:Rabat:Africa:Arabic Ghana:Accra:Africa:English
    Senegal:Dakar:Africa:French Tunisia:Tunis:Africa:Arabic Angola:Luanda:Africa:Portuguese
    Japan:Tokyo:Asia:Japanese China:Beijing:Asia:Chinese Thailand:Bangkok:Asia:Thai Vietnam:Hanoi:Asia:Vietnamese
    Nepal:Kathmandu:Asia:Nepali Iran:Tehran:Asia:Persian Iraq:Baghdad:Asia:Arabic Jordan:Amman:Asia:Arabic
    Qatar:Doha:Asia:Arabic Cuba:Havana:North_America:Spanish Canada:Ottawa:North_America:English
    Peru:Lima:South_America:Spanish Chile:Santiago:South_America:Spanish Brazil:Brasilia:South_America:Portuguese
    Uruguay:Montevideo:South_America:Spanish Ecuador:Quito:South_America:Spanish
    Colombia:Bogota:South_America:Spanish Venezuela:Caracas:South_America:Spanish Australia:Canberra:Oceania:English
    """.split()
]

OPPOSITES = _pairs(
    """
    hot:cold big:small tall:short fast:slow old:new good:bad happy:sad rich:poor strong:weak light:dark hard:soft
    wet:dry early:late full:empty open:closed clean:dirty loud:quiet near:far high:low deep:shallow thick:thin
    wide:narrow sharp:blunt sweet:sour brave:cowardly cheap:expensive easy:difficult safe:dangerous true:false
    right:wrong alive:dead first:last inside:outside always:never up:down push:pull buy:sell win:lose begin:end
    love:hate give:take come:go laugh:cry remember:forget day:night north:south east:west summer:winter
    """
)

PAST_TENSES = _pairs(
    """
    go:went see:saw eat:ate run:ran sing:sang drink:drank write:wrote give:gave take:took come:came buy:bought
    think:thought bring:brought catch:caught teach:taught find:found hold:held sleep:slept keep:kept feel:felt
    leave:left lose:lost make:made say:said tell:told sell:sold stand:stood swim:swam speak:spoke break:broke
    drive:drove ride:rode know:knew grow:grew throw:threw fly:flew draw:drew fall:fell win:won send:sent build:built
    spend:spent meet:met walk:walked play:played jump:jumped cook:cooked open:opened help:helped wash:washed
    carry:carried
    """
)

PLURALS = _pairs(
    """
    child:children man:men woman:women foot:feet tooth:teeth goose:geese mouse:mice ox:oxen wolf:wolves knife:knives
    leaf:leaves wife:wives life:lives loaf:loaves shelf:shelves city:cities baby:babies berry:berries lady:ladies
    fly:flies story:stories country:countries box:boxes fox:foxes bus:buses glass:glasses dish:dishes watch:watches
    church:churches brush:brushes potato:potatoes tomato:tomatoes hero:heroes dog:dogs cat:cats book:books car:cars
    tree:trees king:kings chair:chairs river:rivers toy:toys key:keys
    """
)

KIND_GROUPS = _groups(
    """
animal: dog cat horse cow pig sheep lion tiger wolf bear rabbit goat frog fox
fruit: apple pear cherry lemon grape banana peach plum mango melon
vehicle: car train ship plane bus truck bicycle tram
tool: hammer saw drill axe shovel rake wrench
clothing: shirt shoe hat coat sock glove scarf jacket
drink: water milk wine tea coffee juice beer
furniture: table chair bed sofa desk shelf bench
instrument: piano violin drum flute guitar harp trumpet
"""
)
KINDS = {member: kind for kind, members in KIND_GROUPS.items() for member in members}

COLOURS = _pairs(
    """
    banana:yellow lemon:yellow snow:white milk:white grass:green leaf:green frog:green blood:red tomato:red
    strawberry:red sky:blue sea:blue coal:black raven:black carrot:orange pumpkin:orange chocolate:brown bear:brown
    elephant:grey ash:grey plum:purple flamingo:pink swan:white crow:black cherry:red pea:green sun:yellow
    salt:white pig:pink mud:brown
    """
)

SOUNDS = _pairs(
    """
    dog:woof cat:meow cow:moo sheep:baa duck:quack pig:oink horse:neigh lion:roar mouse:squeak bee:buzz snake:hiss
    owl:hoot frog:croak wolf:howl crow:caw rooster:crow hen:cluck bear:growl pigeon:coo
    """
)

PEOPLE = """
Tom Ben Anna Sam Lucy Mark Emma Paul Kate Jack Nina Leo Rosa Hugo Mia Adam Clara Finn Ruth Max Eva Otto Ida Carl
Jane Luke Sara Peter Lena Noah
""".split()

JOBS = """
baker cook doctor teacher farmer driver painter singer nurse pilot tailor writer sailor lawyer dancer gardener
miner waiter
""".split()

CITIES = [country.capital for country in COUNTRIES if " " not in country.capital][:36]

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

# What is sold, found, lost ... in events; each takes the article `a`.
OBJECTS = """
car book clock hat coat chair table bicycle piano guitar shirt lamp cup ring boat drum knife basket picture
mirror bell kite ladder bottle
""".split()

OBJECT_COLOURS = "red blue green yellow black white brown grey".split()

# Countable things for word problems (plural form).
COUNTABLES = """
apples books coins eggs pens cups stamps cards shells nuts keys balls stones toys hats pears
""".split()

EVENT_VERBS = {"sell": "sold", "buy": "bought", "find": "found", "lose": "lost", "paint": "painted", "break": "broke"}

REVIEW_THINGS = """
soup film hotel book song meal concert room cake play game coffee show garden beach museum
""".split()
GOOD_WORDS = "wonderful great lovely excellent superb delightful perfect fantastic".split()
BAD_WORDS = "terrible awful horrible dreadful boring poor disgusting disappointing".split()
GOOD_REMARKS = ["I loved it", "We want to come back", "I smiled all day", "Everyone was happy", "I recommend it"]
BAD_REMARKS = ["I hated it", "We never want to come back", "I was angry all day", "Everyone was sad", "I warn you"]

# Sentences for the `generation` category: who can do what, and where.
SUBJECTS = """
dog cat horse cow bird pig sheep duck lion wolf bear rabbit man woman boy girl king queen friend brother sister
father mother baker cook doctor teacher farmer driver painter singer nurse pilot tailor writer sailor goat tiger
fox frog
""".split()
PLACES = """
garden house street forest school church kitchen river bridge park market station field tower village hotel
museum island
""".split()
ACTIONS = "sleeps waits sits stands walks runs plays rests sings jumps eats hides".split()

GREETINGS = [
    "Hello",
    "Hi",
    "Good morning",
    "Good evening",
    "Hello there",
    "Hi there",
    "Hey",
    "Good day",
    "Good afternoon",
]
GREETING_TAILS = [
    "",
    "!",
    ".",
    ", how are you?",
    ", my name is {name}.",
    ", I am {name}.",
    ", nice day today.",
    ", are you there?",
]
GREETING_REPLIES = [
    "Nice to meet you.",
    "Hello! Nice to meet you.",
    "Good to see you.",
    "Hello, how nice of you to come by.",
    "I am glad to hear from you.",
    "Welcome, have a nice day.",
]
FAREWELLS = [
    "Goodbye",
    "Bye",
    "See you soon",
    "Thank you",
    "Thanks, bye",
    "Good night",
    "Have a nice day",
    "See you tomorrow",
]
FAREWELL_REPLIES = ["Goodbye, have a nice day.", "See you soon.", "You are welcome.", "Until next time."]


def article(noun: str) -> str:
    """Return the noun with its indefinite article.

    Example:
        >>> article("apple"), article("dog")
        ('an apple', 'a dog')
    """
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


# Python one-liners: (what it does, as a bare noun phrase; the code).
# Slots: {xs} is a list, {x} a variable, {a} and {b} are numbers.
CODE = [
    ("sum of {a} and {b}, shown", "print({a} + {b})"),
    ("product of {a} and {b}, shown", "print({a} * {b})"),
    ("length of {xs}", "len({xs})"),
    ("{xs} in sorted order", "sorted({xs})"),
    ("{xs} in reverse", "{xs}[::-1]"),
    ("first element of {xs}", "{xs}[0]"),
    ("last element of {xs}", "{xs}[-1]"),
    ("element {a} of {xs}", "{xs}[{a}]"),
    ("largest of {xs}", "max({xs})"),
    ("smallest of {xs}", "min({xs})"),
    ("total of {xs}", "sum({xs})"),
    ("{a} added at the end of {xs}", "{xs}.append({a})"),
    ("{x} set to {a}", "{x} = {a}"),
    ("{x} raised by {a}", "{x} += {a}"),
    ("{x} shown", "print({x})"),
    ("every element of {xs} shown", "for {x} in {xs}: print({x})"),
    ("numbers below {a} shown", "for {x} in range({a}): print({x})"),
    ("function of {x} that adds {a}", "def add({x}): return {x} + {a}"),
    ("function of {x} that multiplies by {a}", "def scale({x}): return {x} * {a}"),
    ("empty list {xs}", "{xs} = []"),
]
LIST_NAMES = "items numbers names words scores ages prices values letters results books cards".split()
VARIABLE_NAMES = "x y n count total score age price".split()
