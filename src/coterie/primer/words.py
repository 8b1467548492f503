"""Word lists of the generated slices. Any change or reordering needs a new `VERSION`."""

# Names by pronoun, so that a sentence can say "she" or "he".
GIRLS = tuple(
    (
        "Mia Anna Lily Zoe Ella Nora Ruth Ida Maya Lena Rosa Clara Emma Jane Tina Kate Lucy Sara Amy Eva "
        "Nina Olga "
        "Vera Iris Hana"
    ).split()
)
BOYS = tuple(
    (
        "Tom Ben Sam Max Leo Jack Tim Paul Noah Finn Omar Hugo Karl Ivan Luis Adam Dan Fred Gus Joe Ken Nick "
        "Otto "
        "Ravi Will"
    ).split()
)
# Adjectives, trades and the like start with a consonant: the templates write "a" before them.
# Things one can count and give away, singular and plural.
THINGS = tuple(
    tuple(pair.split("/"))
    for pair in (
        "apple/apples pear/pears plum/plums lemon/lemons nut/nuts egg/eggs cake/cakes cookie/cookies "
        "berry/berries "
        "carrot/carrots shell/shells stone/stones button/buttons coin/coins stamp/stamps card/cards "
        "marble/marbles "
        "bead/beads ribbon/ribbons feather/feathers leaf/leaves flower/flowers rose/roses pencil/pencils "
        "book/books "
        "cup/cups spoon/spoons candle/candles balloon/balloons block/blocks sticker/stickers toy/toys "
        "key/keys "
        "sock/socks brush/brushes box/boxes basket/baskets bell/bells kite/kites"
    ).split()
)
# Single things that are put somewhere, lost and found.
TREASURES = tuple(
    "ball hat doll lamp map drum flute ring boat train teddy whistle mirror compass scarf clock pen knife "
    "rope puzzle "
    "letter photo crown jar torch glove camera robot".split()
)
COLOURS = tuple("red blue green yellow white black brown pink grey violet purple golden silver".split())
SIZES = tuple("small big tiny young new shiny soft heavy pretty strange".split())
CONTAINERS = tuple(
    "in the box|under the bed|on the table|in the bag|behind the door|on the shelf|in the drawer|"
    "under the chair|"
    "in the basket|on the window sill|in the cupboard|next to the stove|under the stairs|in the chest|"
    "on the roof|"
    "behind the curtain|in the garden shed|under the blanket".split("|")
)
PLACES = tuple(
    "park garden forest beach market school library river farm hill village lake bakery station museum "
    "harbour meadow "
    "castle zoo mill".split()
)
ANIMALS = tuple(
    "dog cat rabbit duck goat pony hen mouse fox owl frog bear hedgehog squirrel goose donkey".split()
)
WEATHER = tuple("sunny|rainy|windy|cold|warm|foggy|snowy|bright|cloudy|quiet".split("|"))
TIMES = tuple(
    "One morning|One day|One afternoon|One evening|On Monday|On Tuesday|On Friday|On Sunday|In spring|"
    "In summer|"
    "In autumn|In winter|Last week|Early in the day".split("|")
)
TRAITS = tuple(
    "kind brave shy clever curious patient funny careful cheerful gentle lively quiet stubborn "
    "helpful".split()
)
# What happened, and how it made someone feel.
CAUSES = tuple(
    tuple(line.split("|"))
    for line in (
        "the rain ruined the picnic|sad",
        "a friend came to visit|happy",
        "the dog barked in the night|scared",
        "the train was late|cross",
        "the cake came out of the oven|hungry",
        "the lights went out|scared",
        "the walk was very long|tired",
        "the team won the game|proud",
        "someone broke the window|worried",
        "the sun came out at last|happy",
        "the kite flew away|sad",
        "a letter came from far away|curious",
        "nobody wanted to play|lonely",
        "the soup was too hot|careful",
        "the baby bird learned to fly|glad",
        "the door would not open|worried",
        "the music was loud|cross",
        "there was no school|excited",
        "the ice cream fell on the ground|sad",
        "the snow was deep|excited",
        "the teacher said well done|proud",
        "the path was dark|afraid",
        "the bus did not stop|angry",
        "the flowers began to bloom|glad",
    )
)
JOBS = tuple(
    "baker farmer teacher doctor painter sailor gardener cook driver singer tailor nurse builder fisher "
    "postman".split()
)
# Words for string functions, lower case.
WORDS = tuple(
    (
        "cat dog sun map tree bird fish moon star book door hand ring lamp rain snow wind fire rock sand "
        "ship boat "
        "road bread milk salt water apple lemon grape plum berry table chair house river stone plant grass "
        "cloud "
        "light night green white black brown happy quick small large sweet music paper pencil window garden "
        "forest "
        "summer winter spring autumn silver golden orange yellow purple circle square number letter button "
        "pocket "
        "basket candle kitten rabbit monkey turtle spider dragon castle bridge market school doctor farmer "
        "baker "
        "teacher friend mother father sister brother family holiday morning evening picture machine village "
        "mountain "
        "island ocean planet rocket signal engine wheel hammer ladder mirror carpet blanket pillow bottle "
        "kettle "
        "butter cheese pepper sugar honey cookie banana cherry tomato potato carrot onion garlic python list "
        "loop "
        "string value index order branch memory model token layer expert router"
    ).split()
)

# Facts that hold: a question for the lookup tool, and its answer.
CAPITALS: dict[str, str] = dict(
    pair.replace("_", " ").split("/")
    for pair in (
        "France/Paris Germany/Berlin Italy/Rome Spain/Madrid Portugal/Lisbon Austria/Vienna Poland/Warsaw "
        "Norway/Oslo Sweden/Stockholm Finland/Helsinki Denmark/Copenhagen Ireland/Dublin Greece/Athens "
        "Hungary/Budapest Japan/Tokyo China/Beijing Egypt/Cairo Kenya/Nairobi Canada/Ottawa Cuba/Havana "
        "Peru/Lima "
        "Chile/Santiago India/New_Delhi Russia/Moscow Belgium/Brussels Iceland/Reykjavik Romania/Bucharest "
        "Bulgaria/Sofia Thailand/Bangkok Vietnam/Hanoi Iran/Tehran Iraq/Baghdad Nepal/Kathmandu Ghana/Accra "
        "Morocco/Rabat Tunisia/Tunis"
    ).split()
)
