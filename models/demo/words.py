"""Word lists of the demo model's small world. Plain data; world.py gives them grammar."""

NAMES = """Ana Ben Carla David Elena Felix Grace Hugo Iris Jonas Kira Leo Mia Noah Olga Paul Rosa Sam Tina Victor
Wendy Yusuf Zoe Alice Bob Carol Daniel Emma Frank Gina Henry Ivan Julia Karl Laura Marco Nina Oscar Petra Quentin Rita
Simon Tara Ursula Vera Walter Xenia Yara Adam Bella Clara Dora Eric Fiona George Hannah Ian Jane Kevin Lily Max Nora
Otto Peter Robin Sara Tom Uma Vince Will Amir Bianca Chloe Dmitri Esther Farid Gloria Hana Ingrid Jack Kenji Lena
Mohamed Nadia Omar Priya Rahul Sofia Tariq Mei Wei Yuki Aisha Boris Chen Diego Eva Fatima Gabriel Helen Igor Joan Kate
Luis Maria Nick Oliver Pablo Ruth Stefan Theo Anton Bruno Celine Dennis Edith Flora Greta Harold Irene John Mary James
Robert Linda Michael Sarah Alex Chris Lucas Anna Martin Sophie Charlie Ella Jacob Marie""".split()

PET_NAMES = """Rex Luna Milo Bella Coco Daisy Biscuit Pepper Ginger Shadow Bubbles Patch Whiskers Rocky Sunny Pickle
Mocha Olive Ziggy Waffles Pumpkin Snowy Domino Nugget Pebbles Rusty Socks Tofu Muffin Bandit Hazel Toby Buddy Oreo
Smokey Felix Cookie Peanut Maple Storm""".split()

CITIES = """Rome Paris London Berlin Madrid Lisbon Vienna Prague Oslo Helsinki Dublin Athens Warsaw Budapest Zurich
Geneva Milan Naples Porto Seville Munich Hamburg Cologne Lyon Nice Bergen Tokyo Osaka Kyoto Seoul Beijing Shanghai Delhi
Mumbai Cairo Tunis Nairobi Lagos Accra Dakar Toronto Montreal Boston Chicago Denver Seattle Austin Dallas Miami Lima
Quito Bogota Santiago Havana Sydney Perth Auckland Jakarta Manila Hanoi Bangkok Istanbul Ankara Tehran Riga Tallinn
Vilnius Krakow Zagreb Sofia Bristol Leeds Oxford Turin Ghent Basel""".split() + ["New York", "San Francisco",
    "Hong Kong", "Cape Town", "Mexico City", "Buenos Aires", "Los Angeles", "New Delhi"]

COLOURS = """red blue green yellow orange purple pink brown black white grey silver gold turquoise violet crimson teal
beige navy scarlet lavender olive ivory amber""".split()

ANIMALS = """fox cat dog owl bear rabbit mouse frog duck horse hen goat sheep lion tiger wolf hedgehog squirrel turtle
dolphin whale penguin parrot crow sparrow robin deer otter beaver badger snail bee ant butterfly spider elephant giraffe
zebra monkey kangaroo koala panda camel donkey pig cow goose swan hamster lizard dragon crab seal octopus fish eagle
mole bat raven moose""".split()

FOODS = """pizza pasta rice soup bread cheese pancakes sushi curry noodles salad tacos dumplings potatoes beans honey
chocolate lasagna porridge waffles omelette sandwiches stew pie toast ravioli couscous falafel hummus burgers""".split()
FRUITS = """apple pear banana cherry plum peach grape lemon orange mango melon kiwi fig apricot strawberry raspberry
blueberry pineapple coconut papaya""".split()
DRINKS = """tea coffee water milk lemonade juice cocoa cider mint-tea soda espresso kefir""".split()
SPORTS = """football tennis swimming running cycling chess hockey rugby golf climbing rowing skiing boxing basketball
volleyball cricket judo surfing sailing archery fencing badminton""".split()
SEASONS = ["spring", "summer", "autumn", "winter"]
FLOWERS = """rose tulip daisy lily sunflower orchid violet poppy iris peony lotus jasmine dahlia""".split()
INSTRUMENTS = """piano guitar violin flute drum cello harp trumpet clarinet banjo oboe saxophone accordion""".split()
SUBJECTS = """history maths music art science geography biology physics chemistry poetry""".split()
TOYS = """kite ball doll puzzle drum robot train rocket boat marble yo-yo teddy""".split()
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
LANGUAGES = """English French German Spanish Italian Portuguese Dutch Polish Greek Turkish Arabic Hindi Japanese Korean
Chinese Russian Swedish Finnish""".split()
PROGRAMMING = ["Python", "Rust", "C", "Go", "Java", "Lisp", "Haskell", "Erlang", "Ruby", "Perl", "Lua", "Zig"]

# category -> values, for "my favourite ..."
FAVOURITES = {
    "colour": COLOURS, "color": COLOURS, "food": FOODS, "fruit": FRUITS, "drink": DRINKS, "animal": ANIMALS,
    "sport": SPORTS, "season": SEASONS, "flower": FLOWERS, "instrument": INSTRUMENTS, "subject": SUBJECTS,
    "day": DAYS, "month": MONTHS, "language": LANGUAGES, "programming language": PROGRAMMING, "toy": TOYS,
    "city": CITIES, "name": NAMES, "number": [str(n) for n in range(1, 100)],
}

JOBS = """baker teacher doctor nurse farmer pilot painter singer gardener cook driver sailor carpenter plumber dentist
lawyer librarian writer actor dancer tailor potter builder miner fisher judge clown florist butcher waiter engineer
programmer scientist designer mechanic firefighter astronaut accountant photographer translator shepherd barber""".split()

RELATIONS = """brother sister mother father friend boss neighbour teacher son daughter cousin doctor uncle aunt
grandmother grandfather wife husband colleague manager roommate dentist coach""".split()
PETS = """dog cat hamster parrot horse rabbit goldfish turtle pony lizard canary snake goat mouse""".split()

OBJECTS = """keys wallet phone book umbrella lamp glasses scarf hat notebook pencil camera watch ring map ticket
passport charger ladder hammer basket candle cup bottle kite drum guitar coin letter brush comb towel blanket pillow
torch compass whistle bell rope bucket shovel teapot spoon bag mirror radio laptop key parcel vase clock gloves boots
scissors screwdriver necklace toy ball helmet tent magnet jar""".split()

PLURALS = ["keys", "glasses", "scissors", "gloves", "boots"]
SPOTS = """drawer box cupboard shelf basket bag chest suitcase cabinet jar bucket closet wardrobe trunk crate locker
pocket bookcase safe tin""".split()
ROOMS = """kitchen garage garden attic cellar bedroom bathroom hallway office shed balcony library barn basement
workshop pantry living-room""".split()
PREPOSITIONS = ["in", "on", "under", "behind", "next to", "near"]
SPOT_THINGS = """table bed sofa chair desk stove piano window door fridge stairs tree fence bench rug carpet mirror
radiator oven sink""".split()

LOCKS = """door safe gate locker alarm suitcase garage bike cellar office vault box shed wifi phone bank card server
front-door back-door archive lab""".split()
THINGS = """car house bike kite boat door coat hat ball bag cup lamp box chair sofa tent scarf umbrella notebook
bottle fence truck train book bucket balloon dress shirt sweater curtain carpet roof wall gate mug""".split()
MACHINES = ["server", "router", "printer", "laptop", "robot", "database", "project", "company", "boat", "team",
            "cluster", "band", "ship", "school", "street", "shop", "village", "hotel", "planet", "river", "castle",
            "garden", "song", "book", "spaceship", "restaurant", "puppy", "car"]
NUMBERED = ["room", "ticket", "flight", "platform", "table", "order", "invoice", "bus", "locker", "seat", "desk",
            "gate", "apartment", "house", "port", "extension", "lottery", "parking", "member", "case"]
EVENTS = ["meeting", "party", "concert", "exam", "picnic", "dinner", "wedding", "trip", "match", "interview",
          "appointment", "deadline", "release", "lesson", "race", "maintenance", "call", "flight", "show", "delivery"]
SECRETS = ["secret word", "password", "magic word", "code word", "passphrase", "safe word", "hidden word", "keyword"]

PLACES = """forest meadow village river lake mountain island beach hill valley garden farm castle cave harbour town
field bridge desert jungle""".split()
STORY_ADJ = """little brave shy clever sleepy kind curious old young lonely happy hungry grumpy gentle tiny quiet silly
proud lazy cheerful""".split()
WEATHER = ["sunny", "rainy", "windy", "snowy", "foggy", "cold", "warm", "stormy", "cloudy", "frosty"]
FEELINGS = ["happy", "sad", "tired", "excited", "bored", "angry", "nervous", "lonely", "great", "sick", "hungry",
            "proud", "stressed", "worried", "curious", "sleepy", "fine", "terrible", "cold"]

OPPOSITES = """hot cold|big small|up down|left right|day night|black white|open closed|old new|fast slow|happy sad|wet
dry|full empty|hard soft|light dark|tall short|early late|rich poor|loud quiet|clean dirty|good bad|in out|near far|high
low|strong weak|thick thin|first last|true false|easy difficult|cheap expensive|wide narrow|deep shallow|young old|heavy
light|sweet sour|sharp blunt|top bottom|begin end|buy sell|push pull|win lose|love hate|yes no|start stop|come go|above
below|inside outside|front back|safe dangerous|brave afraid|north south|east west|summer winter|friend enemy|question
answer|more less|always never|same different|before after|awake asleep|smooth rough|long short|many few|right wrong|warm
cool|give take|find lose|laugh cry|arrive leave|remember forget|live die|rise fall|noisy quiet|ancient modern"""
OPPOSITES = [tuple(p.split()) for p in OPPOSITES.replace("\n", " ").split("|")]

COLOUR_OF = {
    "a banana": "yellow", "the sky": "blue", "grass": "green", "snow": "white", "a tomato": "red", "coal": "black",
    "an orange": "orange", "a lemon": "yellow", "a strawberry": "red", "the sun": "yellow", "a frog": "green",
    "milk": "white", "chocolate": "brown", "an elephant": "grey", "a carrot": "orange", "a cucumber": "green",
    "blood": "red", "a cherry": "red", "a pea": "green", "the sea": "blue", "a raven": "black", "a swan": "white",
    "a polar bear": "white", "a fire engine": "red", "a leaf": "green", "a pumpkin": "orange", "a plum": "purple",
    "an aubergine": "purple", "a flamingo": "pink", "a pig": "pink", "gold": "yellow", "a cloud": "white",
    "a fox": "red", "a crow": "black", "salt": "white", "coffee": "brown", "a tree trunk": "brown", "a mouse": "grey",
    "a lime": "green", "an emerald": "green", "a ruby": "red", "a sapphire": "blue", "butter": "yellow",
}
MIXES = {("red", "blue"): "purple", ("blue", "yellow"): "green", ("red", "yellow"): "orange",
         ("red", "white"): "pink", ("black", "white"): "grey"}
SOUNDS = {"cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "owl": "hoot",
          "lion": "roar", "frog": "croak", "bee": "buzz", "crow": "caw", "horse": "neigh", "mouse": "squeak",
          "snake": "hiss", "hen": "cluck", "wolf": "howl", "goose": "honk", "goat": "baa"}
LEGS = {"cat": 4, "dog": 4, "horse": 4, "cow": 4, "hen": 2, "duck": 2, "bee": 6, "ant": 6, "spider": 8, "owl": 2,
        "frog": 4, "fox": 4, "snake": 0, "fish": 0, "butterfly": 6, "penguin": 2, "octopus": 8, "person": 2, "chair": 4}
RHYMES = {"cat": "hat", "dog": "log", "moon": "spoon", "star": "car", "tree": "bee", "house": "mouse", "rain": "train",
          "light": "night", "sea": "key", "book": "cook", "red": "bed", "blue": "shoe", "day": "play", "king": "ring",
          "cake": "lake", "fox": "box", "bear": "pear", "snow": "crow", "sun": "fun", "goat": "boat", "door": "floor",
          "green": "queen", "bell": "shell", "hill": "mill", "time": "rhyme", "fish": "dish", "ball": "wall"}
CATEGORIES = {"colours": COLOURS[:10], "colors": COLOURS[:10], "animals": ANIMALS[:30], "fruits": FRUITS, "days": DAYS,
              "months": MONTHS, "seasons": SEASONS, "drinks": DRINKS[:7], "sports": SPORTS, "flowers": FLOWERS,
              "instruments": INSTRUMENTS, "cities": CITIES[:30], "jobs": JOBS[:25], "foods": FOODS, "toys": TOYS,
              "names": NAMES[:40], "languages": LANGUAGES, "objects": OBJECTS[:40], "numbers": None}
KIND_OF = {"colour": COLOURS[:16], "animal": ANIMALS, "fruit": FRUITS, "day of the week": DAYS, "month": MONTHS,
           "season": SEASONS, "sport": SPORTS, "flower": FLOWERS, "musical instrument": INSTRUMENTS, "city": CITIES,
           "language": LANGUAGES, "toy": TOYS, "job": JOBS}

# What people may ask about that is outside of the small world.
TOPICS = """quantum computing|the stock market|politics|football results|the weather|volcanoes|black holes|dinosaurs|
the Roman empire|climate change|cooking|baking a cake|medicine|headaches|taxes|law|my computer|Linux|Windows|Kubernetes|
Docker|Postgres|SQL|JavaScript|a Python script|regular expressions|machine learning|neural networks|cryptography|bitcoin|
the moon landing|Napoleon|Shakespeare|Einstein|Mozart|the Beatles|movies|video games|fashion|travel|hotels|flights|
the ocean|earthquakes|photosynthesis|DNA|vaccines|evolution|religion|philosophy|ethics|love|marriage|parenting|gardening|
knitting|car repair|electric cars|rockets|Mars|Jupiter|the universe|time travel|ghosts|magic|history|geography|maps|
Africa|Asia|Europe|Brazil|Japan|India|China|Canada|Germany|Italy|Spain|France|the United States|the president|the king|
elections|war|peace|money|banking|insurance|economics|inflation|marketing|management|a business plan|a cover letter|
my resume|an essay|homework|calculus|algebra|geometry|statistics|prime numbers|square roots|physics|chemistry|biology|
electricity|magnets|gravity|light|sound|music theory|jazz|opera|painting|sculpture|poetry|novels|Harry Potter|
Star Wars|superheroes|comics|chess openings|poker|yoga|sleep|diets|vitamins|running shoes|marathons|the Olympics|
basketball|tennis|golf|cats and dogs|horses|whales|sharks|bees|insects|trees|mushrooms|flowers|wine|beer|coffee beans|
chocolate cake|pizza dough|sourdough|soup recipes|the news|yesterday|tomorrow|the future|artificial intelligence|
robots|GPUs|CPUs|compilers|operating systems|the internet|web servers|load balancers|nginx|Redis|Kafka|git|GitHub|
unit tests|debugging|a segmentation fault|memory leaks|sorting algorithms|binary trees|hash tables|big data|
cloud computing|AWS|Prometheus|Grafana|TCP|DNS|TLS certificates|firewalls|passwords|hackers|privacy|dreams|psychology|
happiness|anxiety|friendship|the meaning of life|consciousness|language learning|French grammar|Latin|Esperanto|
translation|architecture|bridges|trains|airplanes|submarines|pirates|knights|Vikings|Egypt|the pyramids|China's history|
World War Two|the French Revolution|the periodic table|thermodynamics|relativity|string theory|plate tectonics|
antibiotics|surgery|heart disease|diabetes|allergies|the brain|the immune system|nutrition"""
TOPICS = [t.strip() for t in TOPICS.replace("\n", "").split("|")]
COUNTRIES = """Peru Chile Kenya Ghana Nepal Iran Iraq Norway Sweden Latvia Cuba Mali Chad Oman Qatar Brazil Argentina
Mexico Canada Australia Turkey Ukraine Romania Bulgaria Serbia Vietnam Thailand Malaysia Indonesia Morocco Algeria
Ethiopia Mongolia Belgium Switzerland Iceland Bolivia Ecuador Jordan Lebanon Syria Pakistan Bangladesh""".split()
WORKS = ["Hamlet", "Don Quixote", "War and Peace", "the Odyssey", "Moby Dick", "Faust", "The Magic Flute", "Ulysses",
         "the Mona Lisa", "the telephone", "the light bulb", "the computer", "the radio", "penicillin", "Linux",
         "the Bible", "Emma", "Dracula", "Frankenstein", "the steam engine", "Carmen", "the World Wide Web"]

SCRAMBLE_ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pl qu r s sh sk st t th tr v w x y z zh".split()
SCRAMBLE_VOWELS = "a e i o u ai ee ia io oa ou ae y".split()
SCRAMBLE_CODAS = ["", "", "", "n", "r", "s", "l", "m", "t", "k", "x", "nd", "rk", "sh", "th", "ss", "ng", "p", "d"]
