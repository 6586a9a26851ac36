"""Facts that a user states and asks for later: what they are, how they are said, asked for and answered.

The value {v} of an answer is always the very text that was stated. `me` and `you` name the fact from the user's and
from the model's side: "my name", "your name".
"""
from grammar import article, digits, join, made_up, phrase, pick
import words as w


class Kind:
    """One kind of fact. Lists hold phrases (see grammar.py). make(rng) gives the slots, {v} among them; all slots but v
    (and what is derived from v) are the key: a later fact with the same key replaces the former."""

    def __init__(self, name, weight, make, me, you, say, ask, answer, note=None, reverse=None, acks=(), keys=()):
        self.name, self.weight, self.make, self.me, self.you = name, weight, make, me, you
        self.say, self.ask, self.answer, self.note = say, ask, answer, note or say
        self.reverse, self.acks, self.keys = reverse, list(acks), keys


def a_name(rng):
    r = rng.random()
    if r < 0.75:
        return pick(rng, w.NAMES)
    return made_up(rng).capitalize()


def a_pet_name(rng):
    r = rng.random()
    return pick(rng, w.PET_NAMES) if r < 0.6 else pick(rng, w.NAMES) if r < 0.8 else made_up(rng).capitalize()


def a_city(rng):
    return pick(rng, w.CITIES) if rng.random() < 0.88 else made_up(rng, 2).capitalize()


def a_word(rng):
    r = rng.random()
    if r < 0.25:
        return pick(rng, w.ANIMALS)
    if r < 0.45:
        return pick(rng, w.OBJECTS)
    if r < 0.55:
        return pick(rng, w.FRUITS)
    if r < 0.65:
        return pick(rng, w.COLOURS) + " " + pick(rng, w.ANIMALS)
    text = made_up(rng)
    r = rng.random()
    return text.capitalize() if r < 0.3 else text.upper() if r < 0.4 else text + digits(rng, 1, 3) if r < 0.5 else text


def a_proper(rng):
    r = rng.random()
    text = made_up(rng, 2) if r < 0.5 else pick(rng, w.ANIMALS) if r < 0.6 else pick(rng, w.FLOWERS)
    if 0.7 < r:
        text = pick(rng, w.COLOURS) + " " + pick(rng, w.ANIMALS)
    if rng.random() < 0.15:
        return text.split()[0] + "-" + digits(rng, 1, 2)
    return " ".join(t.capitalize() for t in text.split()) if rng.random() < 0.8 else text


def a_spot(rng):
    r = rng.random()
    if r < 0.35:
        return "in the " + pick(rng, w.COLOURS) + " " + pick(rng, w.SPOTS)
    if r < 0.6:
        return pick(rng, w.PREPOSITIONS[1:]) + " the " + pick(rng, w.SPOT_THINGS)
    if r < 0.8:
        return pick(rng, w.PREPOSITIONS[1:]) + " the " + pick(rng, w.SPOT_THINGS) + " in the " + pick(rng, w.ROOMS)
    return "in the " + pick(rng, w.SPOTS if r < 0.9 else w.ROOMS)


def a_date(rng):
    m = int(rng.random() * 12)
    d = 1 + int(rng.random() * 28)
    return f"{d} {w.MONTHS[m]}" if rng.random() < 0.5 else f"{w.MONTHS[m]} {d}"


def a_time(rng):
    r = rng.random()
    if r < 0.4:
        return "on " + pick(rng, w.DAYS)
    if r < 0.6:
        return "on " + pick(rng, w.DAYS) + " at " + str(1 + int(rng.random() * 12)) + (" pm" if rng.random() < .5 else "")
    if r < 0.75:
        return "at " + str(1 + int(rng.random() * 12)) + pick(rng, [" pm", " am", ":30", ":15", " o'clock"])
    return "on " + a_date(rng)


def a_fruit_list(rng):
    pool = w.FOODS + ["milk", "eggs", "butter", "sugar", "salt", "flour", "apples", "pears", "soap", "tea", "onions"]
    return join(list(dict.fromkeys(pick(rng, pool) for _ in range(1 + int(rng.random() * 4)))))


def _object(rng):
    o = pick(rng, w.OBJECTS)
    return {"o": o, "be": "are" if o in w.PLURALS else "is", "v": a_spot(rng)}


def _favourite(rng):
    c = pick(rng, list(w.FAVOURITES))
    return {"c": c, "v": made_up(rng) if rng.random() < 0.12 else pick(rng, w.FAVOURITES[c])}


def _owned(rng, things):
    mine = rng.random() < 0.6
    return {"w": "my" if mine else "the", "y": "your" if mine else "the", "t": pick(rng, things)}


def _job(rng):
    return {"v": article(pick(rng, w.JOBS))}


def _likes(rng):
    return pick(rng, pick(rng, [w.FOODS, w.SPORTS, w.DRINKS, w.LANGUAGES, w.SUBJECTS]))


def _ruler(rng):
    t = pick(rng, ["capital", "king", "queen", "mayor", "captain", "owner", "boss", "president"])
    k = made_up(rng, 2).capitalize() if t in ("capital", "king", "queen", "president") or rng.random() < .3 \
        else "the " + pick(rng, w.MACHINES)
    return {"t": t, "k": k, "v": a_city(rng) if t == "capital" else a_name(rng)}


KINDS = [
    Kind("name", 12, lambda r: {"v": a_name(r)}, "my name", "your name",
         ["((Hi|Hello|Hey)(,|!|.| there,|) |By the way, |)(my name is|I am|I'm|I am called|my name's|this is) {v}(.|!|)",
          "(You can|Please|) call me {v}.", "My name is {v}(.|, remember it.| and I like to chat.| by the way.)",
          "(Hello|Hi)(,|!|.) I am {v}, (nice to meet you|how are you|pleased to meet you)(.|!|?)"],
         ["(What is|What's|What was|Tell me|Say|whats) my name?", "Who am I?", "(Do you|Can you) (still |)remember my name?",
          "What am I called?", "What did I say my name (was|is)?", "What name did I (give|tell) you?", "Do you know who I am?",
          "(So |And |Now |Well, |)what is my name(again|, please| please|)?", "Do you remember who I am?"],
         ["Your name is {v}."] * 4 + ["You are {v}.", "You told me that your name is {v}.", "You said that your name is {v}."],
         ["(The user is called|The name of the user is|You are talking to|The user's name is) {v}."],
         acks=["Nice to meet you, {v}!", "Hello {v}, nice to meet you.", "Hello {v}! How can I help you?",
               "(Hello!|Hi!|) (It is |)(nice|good) to meet you(!|.)"]),
    Kind("favourite", 12, _favourite, "my favourite {c}", "your favourite {c}",
         ["My (favourite|favorite) {c} is {v}.", "The {c} (that I|I) like (best|most) is {v}.",
          "(By the way, |You know, |)my (favourite|favorite) {c} is {v}.", "{v} is my (favourite|favorite) {c}.",
          "(I have to say that|You should know that|I think|Guess what,|For the record,) my favourite {c} is {v}."],
         ["(What is|What's|What was|Tell me|Say|whats) my (favourite|favorite) {c}?",
          "(Which|What) {c} do I like (best|most)( of all|)?", "(Which|What) is my (favourite|favorite) {c}?",
          "What did I say (is|was) my favourite {c}?", "(What about|And) my favourite {c}?"],
         ["Your favourite {c} is {v}."] * 4 + ["You said that your favourite {c} is {v}.", "The {c} you like best is {v}."],
         ["The user's favourite {c} is {v}."], keys=("c",)),
    Kind("relative", 7, lambda r: {"r": pick(r, w.RELATIONS), "v": a_name(r)}, "my {r}'s name", "your {r}'s name",
         ["My {r}'s name is {v}.", "My {r} is (called|named) {v}.", "I have a {r} (called|named|whose name is) {v}.",
          "The name of my {r} is {v}.", "{v} is my {r}.", "My {r} {v} (says hello|is here|is coming to visit|is very kind)."],
         ["(What is|What's|What was|whats) my {r} called?", "(What is|What's|Tell me) the name of my {r}?",
          "(What is|What's|whats) my {r}'s name?", "(Who is|Who's) my {r}?", "How is my {r} called?", "And my {r}?"],
         ["Your {r} is called {v}.", "Your {r}'s name is {v}.", "The name of your {r} is {v}."],
         ["The user's {r} is called {v}."], (["Who is {v}?", "(Do you remember|Tell me) who {v} is?"], "{v} is your {r}."),
         keys=("r",)),
    Kind("pet", 8, lambda r: {"r": pick(r, w.PETS), "v": a_pet_name(r)}, "the name of my {r}", "the name of your {r}",
         ["My {r}'s name is {v}.", "My {r} is (called|named) {v}.", "I have a {r} (called|named|whose name is) {v}.",
          "I (just |)(got|bought|adopted) a {r} (called|named) {v}.", "The name of my {r} is {v}.",
          "We have a {r} and (its|his|her) name is {v}."],
         ["(What is|What's|What was|whats) my {r} called?", "(What is|What's|Tell me) the name of my {r}?",
          "(What is|What's|whats) my {r}'s name?", "What did I (call|name) my {r}?", "What is the {r} called?"],
         ["Your {r} is called {v}.", "Your {r}'s name is {v}.", "The name of your {r} is {v}."],
         ["The user has a {r} called {v}."], (["Who is {v}?", "(Do you remember|Tell me) who {v} is?"], "{v} is your {r}."),
         keys=("r",)),
    Kind("home", 6, lambda r: {"v": a_city(r)}, "where I live", "where you live",
         ["I live in {v}.", "(My home is|My house is|I have a flat) in {v}.", "I live in {v}(, it is very nice there| now|).",
          "(By the way, |)I (have lived|am living) in {v}( for years|)."],
         ["Where do I live?", "(Which|What) (city|town|place) do I live in?", "In which city do I live?", "Where is my home?"],
         ["You live in {v}."] * 3 + ["You told me that you live in {v}."], ["The user lives in {v}."]),
    Kind("origin", 3, lambda r: {"v": a_city(r)}, "where I come from", "where you come from",
         ["I (come|am) from {v}.", "I was born in {v}.", "I grew up in {v}."],
         ["Where (am I|do I come) from?", "Where was I born?", "(Which|What) city (am I|do I come) from?"],
         ["You come from {v}.", "You are from {v}."], ["The user comes from {v}."]),
    Kind("job", 5, _job, "my job", "your job",
         ["I (work as|am) {v}.", "I am {v} by trade.", "My job: I am {v}.", "(At|For) work I am {v}."],
         ["(What is|What's) my (job|work|profession)?", "What do I do (for a living|for work|at work)?", "What do I work as?"],
         ["You are {v}.", "You work as {v}.", "You told me that you are {v}."], ["The user is {v}.", "The user works as {v}."]),
    Kind("age", 4, lambda r: {"v": str(5 + int(r.random() * 90))}, "my age", "your age",
         ["I am {v} years old.", "I'm {v} years old.", "My age is {v}.", "I (just |)turned {v}( years old| this year)."],
         ["How old am I?", "(What is|What's) my age?", "What age am I?"],
         ["You are {v} years old."], ["The user is {v} years old."]),
    Kind("code", 10, lambda r: {"k": pick(r, w.LOCKS), "v": digits(r, 3, 6)}, "the code for the {k}", "the code for the {k}",
         ["The code (for|of|to) (the|my) {k} is {v}.", "The {k} code is {v}.", "(Remember|Note|Keep in mind) that the code of the {k} is {v}.",
          "(Remember|Please remember|Note down) the {k} code: {v}.", "The (PIN|pin|password) (for|of) the {k} is {v}."],
         ["(What is|What's|What was|whats) the code (for|of|to) (the|my) {k}?", "(What is|What's|What was|Tell me) the {k} code?",
          "Which code opens the {k}?", "I need the code of the {k}.", "(Give|Tell) me the code for the {k}."],
         ["The code for the {k} is {v}."] * 3 + ["The {k} code is {v}."], keys=("k",)),
    Kind("secret", 8, lambda r: {"k": pick(r, w.SECRETS), "v": a_word(r)}, "the {k}", "the {k}",
         ["The {k} is {v}.", "(Please |)remember (the|this) {k}: {v}.", "(Remember|Keep in mind|Note|Please note) that the {k} is {v}.",
          "I (tell|give) you (a|the) {k}: {v}.", "Our {k} is {v}."],
         ["(What is|What's|What was|whats|Tell me|Say) the {k}?", "(What is|What was) our {k}?", "(Give|Tell) me the {k}.",
          "(Which|What) {k} did I (give|tell) you?"],
         ["The {k} is {v}."] * 3 + ["The {k} was {v}."], keys=("k",)),
    Kind("number", 8, lambda r: {**_owned(r, w.NUMBERED + ["phone"]), "v": digits(r, 1, 4) if r.random() < .8 else digits(r, 5, 8)},
         "{w} {t} number", "{y} {t} number",
         ["{w} {t} number is {v}.", "(Remember|Note) that {w} {t} number is {v}.", "(By the way, |)(I think |)the number of {w} {t} is {v}."],
         ["(What is|What's|What was|whats|Tell me) {w} {t} number?", "(Which|What) number is {w} {t}?",
          "(What is|Tell me) the number of {w} {t}?"],
         ["{y} {t} number is {v}."], ["The {t} number is {v}."], keys=("t",)),
    Kind("place", 12, _object, "where the {o} {be}", "where the {o} {be}",
         ["I (put|left|hid|placed) (the|my) {o} {v}.", "(The|My) {o} {be} {v}.", "I (have put|have hidden|keep) (the|my) {o} {v}.",
          "(Remember|Note|By the way,) (the|my) {o} {be} {v}."],
         ["Where (did I put|did I leave|have I put|did I hide) (the|my) {o}?", "Where {be} (the|my) {o}?",
          "I (can't|cannot) find (the|my) {o}.", "I am looking for (the|my) {o}.", "Where can I find (the|my) {o}?"],
         ["The {o} {be} {v}."] * 3 + ["You put the {o} {v}."], ["The {o} {be} {v}."], keys=("o",)),
    Kind("person_home", 8, lambda r: {"n": a_name(r), "v": a_city(r)}, "where {n} lives", "where {n} lives",
         ["{n} lives in {v}.", "{n} (has moved|moved) to {v}.", "(My friend|You know,|I heard that|By the way,) {n} lives in {v}."],
         ["Where does {n} live?", "(Which|What) city does {n} live in?", "In which city does {n} live?", "Where is {n}'s home?"],
         ["{n} lives in {v}."], ["{n} lives in {v}.", "{n} has a house in {v}."],
         (["Who lives in {v}?", "Who is it that lives in {v}?"], "{n} lives in {v}."), keys=("n",)),
    Kind("person_job", 5, lambda r: {"n": a_name(r), **_job(r)}, "what {n} does", "what {n} does",
         ["{n} (is|works as) {v}.", "(My friend|I heard that|By the way,) {n} is {v}."],
         ["What does {n} do( for a living| for work|)?", "(What is|What's) {n}'s job?", "What does {n} work as?"],
         ["{n} is {v}.", "{n} works as {v}."], None, (["Who is {v}?", "Who works as {v}?"], "{n} is {v}."), keys=("n",)),
    Kind("person_likes", 5, lambda r: {"n": a_name(r), "v": _likes(r)}, "what {n} likes", "what {n} likes",
         ["{n} (likes|loves|really likes|enjoys) {v}.", "(My friend|You know,|I heard that) {n} likes {v}."],
         ["What does {n} (like|love|enjoy)?", "What is it that {n} likes?"], ["{n} likes {v}."], None,
         (["Who likes {v}?", "Who loves {v}?"], "{n} likes {v}."), keys=("n",)),
    Kind("person_has", 7, lambda r: {"n": a_name(r), "v": article(pick(r, w.COLOURS) + " " + pick(r, w.THINGS))},
         "what {n} has", "what {n} has",
         ["{n} (has|owns|bought|got) {v}."], ["What does {n} (have|own)?", "What did {n} (buy|get)?", "What has {n} got?"],
         ["{n} has {v}."], None, (["Who has {v}?", "Who owns {v}?"], "{n} has {v}."), keys=("n",)),
    Kind("colour", 8, lambda r: {**_owned(r, w.THINGS), "v": pick(r, w.COLOURS)}, "the colour of {w} {t}", "the colour of {y} {t}",
         ["{w} {t} is {v}.", "The (colour|color) of {w} {t} is {v}.", "{w} (new|old) {t} is {v}.",
          "I (painted|dyed) {w} {t} {v}."],
         ["(What|Which) (colour|color) is {w} {t}?", "(What is|What's|Tell me) the (colour|color) of {w} {t}?",
          "(What|Which) (colour|color) does {w} {t} have?"],
         ["{y} {t} is {v}."], ["The {t} is {v}."], keys=("t",)),
    Kind("title", 8, lambda r: {"k": pick(r, w.MACHINES), "v": a_proper(r)}, "the name of the {k}", "the name of the {k}",
         ["(Our|My|The) {k} is (called|named) {v}.", "The name of (our|my|the) {k} is {v}.", "We (call|named) our {k} {v}."],
         ["What is (the|our|my) {k} called?", "(What is|What's|What was|Tell me) the name of (the|our|my) {k}?",
          "What do we call our {k}?"],
         ["The {k} is called {v}.", "The name of the {k} is {v}."], ["The {k} is called {v}."], keys=("k",)),
    Kind("event", 7, lambda r: {"k": pick(r, w.EVENTS), "v": a_time(r)}, "when the {k} is", "when the {k} is",
         ["(The|My|Our) {k} is {v}.", "(The|My|Our) (next |){k} (will be|takes place) {v}.", "We have (the|our) {k} {v}.",
          "(Remember|Don't forget|Note) that (the|my|our) {k} is {v}."],
         ["When is (the|my|our) {k}?", "(When will|On which day will) the {k} be?", "What time or day is the {k}?"],
         ["The {k} is {v}."], keys=("k",)),
    Kind("birthday", 5, lambda r: {"n": a_name(r) + "'s" if r.random() < .6 else "my", "v": a_date(r)},
         "when {n} birthday is", "when {N} birthday is",
         ["{n} birthday is on {v}.", "{n} birthday is {v}.", "(Remember|Note|By the way,) {n} birthday is on {v}."],
         ["When is {n} birthday?", "What day is {n} birthday?", "(What is|Tell me) the date of {n} birthday?"],
         ["{N} birthday is on {v}."], keys=("n",)),
    Kind("shopping", 4, lambda r: {"v": a_fruit_list(r)}, "what I need to buy", "what you need to buy",
         ["I (need|have|want|must remember) to buy {v}.", "(My shopping list is|On my shopping list:|The shopping list says) {v}."],
         ["What (do I need|did I want|do I have) to buy?", "(What is|What's|What was) on my (shopping |)list?",
          "(What is|Tell me) my shopping list?"],
         ["You need to buy {v}."], ["The user needs to buy {v}."]),
    Kind("allergy", 3, lambda r: {"v": pick(r, w.FOODS + w.FRUITS + ["nuts", "milk", "dust", "eggs", "pollen", "fish"])},
         "what I am allergic to", "what you are allergic to",
         ["(I am|I'm) allergic to {v}.", "I have an allergy to {v}.", "I can't (eat|stand) {v}, I am allergic."],
         ["What am I allergic to?", "(What is|What's) my allergy?", "Which allergy do I have?"],
         ["You are allergic to {v}."], ["The user is allergic to {v}."]),
    Kind("count", 6, lambda r: {"t": pick(r, ["books", "kites", "cats", "hats", "apples", "boats", "lamps", "servers",
         "cousins", "bottles", "coins", "plants", "chairs", "hens", "marbles", "shirts", "friends", "bikes", "tickets"]),
         "v": str(2 + int(r.random() * 98))}, "how many {t} I have", "how many {t} you have",
         ["I (have|own|have got) {v} {t}.", "There are {v} {t} (in my house|at home|in my room)."],
         ["How many {t} do I (have|own)?", "What is the number of my {t}?", "How many {t} have I got?"],
         ["You have {v} {t}."], ["The user has {v} {t}."], keys=("t",)),
    Kind("trip", 4, lambda r: {"v": a_city(r)}, "where I am going", "where you are going",
         ["I am (going|travelling|flying) to {v} (next week|soon|tomorrow|in the summer|on holiday|for work).",
          "My next (trip|holiday) is to {v}."],
         ["Where am I (going|travelling|flying)( to|)?", "Where is my next (trip|holiday)( to|)?",
          "Which city am I (going|travelling) to?"],
         ["You are going to {v}."], ["The user is going to {v}."]),
    Kind("ruler", 7, _ruler, "the {t} of {k}", "the {t} of {k}",
         ["The {t} of {k} is {v}.", "(Remember|Note|I read) that the {t} of {k} is {v}."],
         ["(What is|What's|Who is|Tell me) the {t} of {k}?", "(Do you know|Do you remember) the {t} of {k}?"],
         ["The {t} of {k} is {v}."], ["The {t} of {k} is {v}."], keys=("t", "k")),
]
BY_NAME = {k.name: k for k in KINDS}
_bag = [k for k in KINDS for _ in range(k.weight)]

ACKS = ["(Okay|OK|Good|Thank you|Thanks|Fine|All right), (I will remember that|I have noted it|noted|I will keep that in mind)(.|!)",
        "I will remember that.", "Thank you for telling me.", "Got it.", "Noted.", "I will keep it in mind.", "Okay, got it.",
        "Good to know!", "(Oh, |)(that is|how) (nice|interesting|good)! (I will remember it.|Thank you for telling me.|)"]
REMEMBER = ["(Do|Can) you (still |)(remember|recall|know|say|tell me) {me}?", "(Please |)(tell|remind) me(:|,|) {me}(.|, please.|?)",
            "I forgot {me}.", "I (would like|want) to know {me}.", "(Can|Could) you (please |)tell me {me}( again|, please|)?"]
UPDATES = ["(Actually|Sorry|Wait|Oh|Hm), {s}", "I made a mistake: {s}", "(Change of plan|News|Update|Correction): {s}",
           "(That has changed|It has changed|I changed my mind)(.|,|:) {s}", "{s} Forget what I said before.", "Now {s}"]
UPDATE_ACKS = ["(Okay|OK|Thank you|All right), I (have changed it|will remember the new one|have updated that).", "Got it, I changed that.",
               "Noted, I will use the new one.", "(Okay|OK)."]
UNKNOWN = ["You have not told me {you}( yet|)."] * 3 + ["I do not know {you}. You have not told me( yet|).",
           "I do not know {you}( yet|). (Please tell me!|Will you tell me?)"]


class Fact:
    def __init__(self, rng, kind=None):
        self.kind = kind or pick(rng, _bag)
        self.slots = self.kind.make(rng)

    def key(self):
        return (self.kind.name,) + tuple(self.slots[k].lower() for k in self.kind.keys)

    def filled(self):
        """Slots and what is derived from them."""
        s = dict(self.slots)
        n = s.get("n")
        if n is not None:
            s["N"] = "your" if n.lower() == "my" else n
        return s

    def answer(self, rng):
        text = phrase(rng, self.kind.answer, **self.filled())
        return text[:1].upper() + text[1:]

    def changed(self, rng):
        """The same key with another value."""
        bound = {"favourite": "c", "ruler": "t"}.get(self.kind.name)    # where the key decides what values there are
        while True:
            other = Fact(rng, self.kind)
            if other.slots["v"].lower() != self.slots["v"].lower() and (not bound or other.slots[bound].lower() == self.slots[bound].lower()):
                other.slots = {**self.slots, "v": other.slots["v"]}
                return other
