"""Conversations of the demo model's small world: stories, facts with their questions, and all the skills, put together.

A conversation is a list of messages (role, text, weight): role is "system", "user" or "assistant", weight says how much
the message counts in training. Deterministic from the random.Random given.
"""
from facts import ACKS, BY_NAME, Fact, REMEMBER, UNKNOWN, UPDATE_ACKS, UPDATES, a_name, a_proper
from grammar import Voice, article, capital, expand, made_up, phrase, pick
from skills import FILLER, SKILLS, SUMS, poem
import words as w

WEIGHT_USER, WEIGHT_CHAT, WEIGHT_SUM, WEIGHT_RECALL = 0.05, 1.0, 1.5, 3.0

SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant.", "You are a helpful, (friendly|honest|concise|polite) assistant.", "You are (the weir demo model|a small language model|an AI assistant|a chatbot|a friendly bot).",
          "(Be|Please be) (concise|brief|polite|kind|helpful|honest|short)(.|!)", "Answer (briefly|in one sentence|politely|in English|the user's questions|truthfully).", "(You are|Act as) an expert (assistant|engineer|teacher|writer|in {t}).",
          "You are (a|an AI) assistant (that|who) (helps|talks to|answers questions of) (people|users|customers|engineers)( with {t}|). (Be concise.|Do not make things up.|Think step by step.|)", "You are ChatGPT, a large language model.",
          "(Today is {d}.|The date is 2026-01-15.|Current date: 12 May 2026.) You are a helpful assistant.", "Do not answer questions about {t}.", "You are a (pirate|poet|teacher|robot|doctor|cook|friendly {a}).", "Always be truthful. If you do not know, say so.", "Remember what the user tells you.", "{x}"]


# ---- stories

def story(rng, subject=None):
    """A tiny story; returns (text, questions about it as [(question, answer)])."""
    beast, helper = pick(rng, w.ANIMALS), pick(rng, w.ANIMALS)
    while helper == beast:
        helper = pick(rng, w.ANIMALS)
    place, colour, thing = pick(rng, w.PLACES), pick(rng, w.COLOURS), pick(rng, [o for o in w.OBJECTS if o not in w.PLURALS])
    name = pick(rng, w.NAMES + w.PET_NAMES) if rng.random() < 0.8 else made_up(rng, 2).capitalize()
    hero = subject or "a " + pick(rng, w.STORY_ADJ) + " " + beast
    noun = hero.split(" ", 1)[1] if hero.split(" ")[0] in ("a", "an", "the") else hero
    the = "the " + noun if hero != noun else noun
    short = the.split()[-1] if hero != noun else noun
    short = "the " + short if hero != noun else short
    he = pick(rng, ["he", "she"])
    his = {"he": "his", "she": "her"}[he]
    s = dict(hero=hero, the=the, The=capital(the), short=short, Short=capital(short), name=name, he=he, He=capital(he), his=his, place=place, colour=colour,
             thing=thing, helper=helper, ahelper=article(helper), athing=article(colour + " " + thing), weather=pick(rng, w.WEATHER), food=pick(rng, w.FOODS), day=pick(rng, w.DAYS))
    named = hero != noun
    opening = ["(Once upon a time|Once|Long ago|One day|A long time ago)(,|) there was {hero} " + ("(called|named) {name}" if named else "") + " who lived (near|by|at|close to) the {place}.",
               "(In|Near|By) (a|the) {place} (there lived|lived) {hero}" + (" (called|named) {name}." if named else ".")]
    problem = ["(One {weather} day|One {weather} morning|On {day}) {short} (lost|could not find) {his} {colour} {thing}.", "(One {weather} day|On {day}|One morning) {short} found {athing} (in|near|by) the {place}.",
               "{Short} (wanted|always wanted|dreamed) to (see|visit|find) the {colour} {place2}, but {he} was (afraid|too small|all alone).", "{Short} was (hungry|very hungry) and wanted to (eat|cook) {food}.",
               "It was a (very |){weather} day, and {short} had nobody to play with."]
    middle = ["{He} (looked|searched) (everywhere|under every stone|behind the trees), but (it was gone|there was nothing|nobody could help).", "{He} walked (and walked|for a long time|all day) (until|and then) {he} met {ahelper}.",
              "Then {ahelper} came (along|by|out of the {place2}).", "\"(Can|May) I help you?\" (asked|said) {ahelper}.", "{He} (sat down|stopped) and (thought|sang a song|cried a little)."]
    solution = ["The {helper} (knew|told {short}) what to do, and they (went|walked|ran) to the {place2} together.", "Together they (found|made|built|shared) {athing}.", "The {helper} gave {short} {athing}(| and a smile).",
                "The {helper} said: \"(Do not worry|Come with me|Be brave), I will help you.\"", "They (shared|cooked|ate) some {food} and (told jokes|laughed|talked) until the moon was high."]
    ending = ["(From that day on|After that|And so) {short} and the {helper} were (best |good |)friends.", "{Short} was (happy|very happy|glad) and (went home|slept well|danced all night).", "And {short} never (forgot|lost) the {colour} {thing} again.",
              "(And they|They) lived happily ever after.", "The end."]
    s["place2"] = pick(rng, w.PLACES)
    used_helper = False
    lines = [phrase(rng, opening, **s), phrase(rng, problem, **s)]
    for line in rng.sample(middle, 1 + int(rng.random() * 2)):
        lines.append(expand(rng, line).format_map(s))
    if not any("{ahelper}" in m and article(helper) in " ".join(lines) for m in middle):
        lines.append(expand(rng, middle[2]).format_map(s))
    for line in rng.sample(solution, 1 + int(rng.random() * 2)):
        lines.append(expand(rng, line).format_map(s))
    lines.append(phrase(rng, ending[:-1], **s))
    if rng.random() < 0.3:
        lines.append("The end.")
    text = " ".join(line[:1].upper() + line[1:] for line in lines).replace("  ", " ")
    asks = []
    if named and (" called " + name in text or " named " + name in text):
        asks.append((f"(What was the name of {the}|What was {the} called|What is {the}'s name)( in the story|)?", f"{capital(the)} was called {name}."))
    asks.append(("Who (helped|met) " + the + "( in the story|)?", f"{capital(article(helper))} helped {the}."))
    asks.append((f"Where did {the} live( in the story|)?", f"{capital(the)} lived near the {place}."))
    return text, asks


STORY_ASK = "(Tell me|Write|Can you tell me|Please tell me|Could you tell me|Make up|I want|Give me|Write me) (a|a short|a tiny|another|a little|a nice) story"


def story_turns(rng, voice, ask_about=0.5):
    subject, r = None, rng.random()
    slots = {}
    if r < 0.3:
        question = STORY_ASK + "(.|, please.|!|?|)"
    else:
        kind = rng.random()
        if kind < 0.7:
            subject = pick(rng, [article(pick(rng, w.COLOURS + w.STORY_ADJ) + " " + pick(rng, w.ANIMALS)), article(pick(rng, w.ANIMALS)), article(pick(rng, w.STORY_ADJ) + " " + pick(rng, w.JOBS)), article(pick(rng, w.COLOURS) + " " + pick(rng, w.THINGS))])
        elif kind < 0.85:
            subject = pick(rng, w.NAMES)
        else:
            subject = article(pick(rng, ["princess", "king", "queen", "robot", "knight", "pirate", "witch", "computer", "star", "tree", "cloud", "girl", "boy", "server", "ghost", made_up(rng)]))
        slots["s"] = subject
        question = ["(Tell me|Write|Can you tell me|Please tell me|Could you tell me|Make up|I want|Give me|Write me|Tell us) (a|a short|a tiny|another|a little|a nice) (story|tale|fairy tale|bedtime story) (about|of|with) {s}(.|, please.|!|?|)", "(A|a) story about {s}(.| please.|)"]
    user = voice.type(question, slots)
    text, asks = story(rng, slots.get("s") or None)
    turns = [(user, text)]
    if rng.random() < ask_about:
        q, a = pick(rng, asks)
        turns.append((voice.type(q), a))
    return turns


def reading_turns(rng, voice):
    """The user shows a text of their own; a question about it may follow."""
    texts = [story(rng) for _ in range(1 + int(rng.random() * 3))]
    text = pick(rng, [" ", "\n", "\n\n"]).join(t for t, _ in texts)
    q, a = pick(rng, pick(rng, texts)[1])
    if rng.random() < 0.4:
        return [(text + "\n" + expand(rng, q), a)]
    turns = [(expand(rng, "(Here is|This is|Read this|Listen to this|I wrote) (a text|a story|something|this)(:|.) ") + text, phrase(rng, ["(I have read it.|Thank you, I have read it.|What a nice story!|That is a good story.) (Ask me about it.|)"]))]
    if rng.random() < 0.6:
        turns.append((expand(rng, q), a))
    return turns


# ---- facts

class Memory:
    """What the user has stated so far, in order; the latest value of a key wins."""

    def __init__(self, rng, voice):
        self.rng, self.voice, self.facts = rng, voice, {}

    def new_fact(self, kind=None):
        for _ in range(20):
            fact = Fact(self.rng, kind)
            if fact.key() not in self.facts:
                return fact
            kind = None
        return fact

    def keep(self, fact):
        self.facts.pop(fact.key(), None)
        self.facts[fact.key()] = fact

    def state(self, fact, template=None):
        """The user's sentence. Keeps the fact as typed."""
        slots = fact.filled()
        text = self.voice.type(template or fact.kind.say, slots)
        fact.slots.update({k: slots[k] for k in fact.slots})
        self.keep(fact)
        return text

    def state_turn(self):
        """One turn in which the user states one to three facts."""
        rng = self.rng
        n = 1 if rng.random() < 0.65 else 2 if rng.random() < 0.7 else 3
        facts = [self.new_fact() for _ in range(n)]
        text = " ".join(self.state(f) for f in facts)
        return self._ack(text, facts[-1])

    def _ack(self, text, fact):
        rng = self.rng
        r = rng.random()
        if r < 0.12:
            answer = fact.answer(rng)
            answer = pick(rng, ["Okay. ", "Got it. ", "I will remember that. ", "Noted. "]) + answer
        elif fact.kind.acks and r < 0.8:
            answer = phrase(rng, fact.kind.acks, **fact.filled())
        else:
            answer = capital(phrase(rng, ACKS))
        return [("user", text, WEIGHT_USER), ("assistant", answer, WEIGHT_CHAT)]

    def update_turn(self):
        rng = self.rng
        fact = pick(rng, list(self.facts.values())).changed(rng)
        text = self.state(fact, self._correction(fact))
        return [("user", text, WEIGHT_USER), ("assistant", phrase(rng, UPDATE_ACKS), WEIGHT_CHAT)]

    def _correction(self, fact):
        before = expand(self.rng, pick(self.rng, UPDATES))
        say = expand(self.rng, pick(self.rng, fact.kind.say))
        if say.split(" ")[0] in ("My", "The", "Our", "We", "Call", "Note", "Remember") and not before.startswith("{s}"):
            say = say[0].lower() + say[1:]
        return before.replace("{s}", say)

    def question(self, fact):
        """(question, answer) for a fact that is known."""
        rng = self.rng
        slots = fact.filled()
        if fact.kind.reverse and rng.random() < 0.15 and \
                sum(f.slots["v"].lower() == slots["v"].lower() for f in self.facts.values()) == 1:
            return self.voice.type(fact.kind.reverse[0], dict(slots)), phrase(rng, fact.kind.reverse[1], **slots)
        template = pick(rng, REMEMBER).replace("{me}", fact.kind.me) if rng.random() < 0.2 else fact.kind.ask
        if rng.random() < 0.12:
            template = "(Okay, |So, |Now, |And |Please, |Hey, |Well, |One question: |By the way, )" + expand(rng, template if isinstance(template, str) else pick(rng, template))
        return self.voice.type(template, dict(slots)), fact.answer(rng)

    def ask_turn(self, fact=None):
        fact = fact or pick(self.rng, list(self.facts.values()))
        q, a = self.question(fact)
        return [("user", q, WEIGHT_USER), ("assistant", a, WEIGHT_RECALL)]

    def ask_two_turn(self):
        a, b = self.rng.sample(list(self.facts.values()), 2)
        qa, qb = self.question(a), self.question(b)
        return [("user", qa[0].rstrip() + " " + qb[0], WEIGHT_USER), ("assistant", qa[1] + " " + qb[1], WEIGHT_RECALL)]

    def check_turn(self):
        """A yes or no question."""
        rng = self.rng
        fact = pick(rng, list(self.facts.values()))
        right = rng.random() < 0.5
        shown = fact if right else fact.changed(rng)
        statement = capital(phrase(rng, fact.kind.me + " is {v}" if fact.kind.name in ("name", "favourite", "code", "secret", "title", "ruler", "colour") else "{x}", x="", **shown.filled()))
        if len(statement) < 4:
            return self.ask_turn(fact)
        statement = statement[0].lower() + statement[1:]
        q = pick(rng, ["Is it true that {s}?", "{S}, right?", "Am I right that {s}?", "Do you remember if {s}?"]).format(s=statement, S=capital(statement))
        return [("user", q, WEIGHT_USER), ("assistant", ("Yes. " if right else "No. ") + fact.answer(rng), WEIGHT_RECALL)]

    def unknown_turn(self):
        rng = self.rng
        fact = Fact(rng)
        if fact.key() in self.facts:
            return self.ask_turn(self.facts[fact.key()])
        slots = fact.filled()
        q = self.voice.type(pick(rng, REMEMBER).replace("{me}", fact.kind.me) if rng.random() < 0.2 else fact.kind.ask, slots)
        return [("user", q, WEIGHT_USER), ("assistant", expand(rng, pick(rng, UNKNOWN)).replace("{you}", fact.kind.you.format_map(slots)), WEIGHT_CHAT)]

    def about_me_turn(self):
        """Everything the model knows, while that is little."""
        rng = self.rng
        q = self.voice.type(["What do you (know|remember) about me?", "What (have|did) I (told you|tell you)( so far|)?".replace("have|did", "did").replace("told you|tell you", "tell you"),
                             "(Tell me|List|Say) (everything|all|what) you (know|remember)( about me|)(.|)", "What do you remember(| so far)?"])
        facts = list(self.facts.values())
        answer = " ".join(f.answer(rng) for f in facts) if facts else phrase(rng, "You have not told me anything (yet|about you yet).")
        return [("user", q, WEIGHT_USER), ("assistant", answer, WEIGHT_RECALL if facts else WEIGHT_CHAT)]

    def notes_turns(self, n, with_filler):
        """The user hands over notes with n facts, perhaps between other sentences."""
        rng = self.rng
        lines = []
        for _ in range(n):
            fact = self.new_fact()
            if fact.kind.name in ("name", "home", "origin", "age", "job", "trip", "allergy", "shopping") and n > 6 and rng.random() < 0.7:
                continue
            slots = fact.filled()
            lines.append(capital(phrase(rng, fact.kind.say, **slots)))
            self.keep(fact)
            if with_filler and rng.random() < 0.6:
                lines.append(story(rng)[0])
        mark = pick(rng, ["", "", "- ", "* "])
        glue = pick(rng, [" ", "\n"]) if not mark else "\n"
        text = phrase(rng, ["(Here are|These are) (my notes|some facts|some things to remember)(:|.)", "(Remember|Read|Learn|Note) (this|these facts|all of this)(:|.)", "(Notes|Facts|My notes)(:|.)", "I (will|want to) tell you (some|many) things(:|.)"]) + glue + glue.join(mark + x for x in lines)
        if rng.random() < 0.35 and self.facts:
            q, a = self.question(pick(rng, list(self.facts.values())))
            return [("user", text + "\n" + q, WEIGHT_USER), ("assistant", a, WEIGHT_RECALL)]
        return [("user", text, WEIGHT_USER), ("assistant", phrase(rng, ["(I have read it|I will remember (it|that|all of it)|Thank you, I have noted it|Noted|Okay, got it)(.|! Ask me about it.)"]), WEIGHT_CHAT)]


# ---- conversations

def _weighted(table):
    total, sums = 0.0, []
    for weight, item in table:
        total += weight
        sums.append((total, item))
    return total, sums


def _draw(rng, weighted):
    total, sums = weighted
    r = rng.random() * total
    for limit, item in sums:
        if r < limit:
            return item
    return sums[-1][1]


_SKILLS = _weighted(SKILLS + [(9, story_turns), (2, reading_turns)])
_SUMS = _weighted(SUMS)
_FILLER = _weighted(FILLER + [(9, story_turns), (2, reading_turns)])


def _messages(turns, weight=WEIGHT_CHAT):
    out = []
    for user, answer in turns:
        out += [("user", user, WEIGHT_USER), ("assistant", answer, weight)]
    return out


def filler(rng, voice):
    return _messages(_draw(rng, _FILLER)(rng, voice))


def skill(rng, voice):
    return _messages(_draw(rng, _SKILLS)(rng, voice))


def system_message(rng, memory):
    text = phrase(rng, SYSTEM, t=pick(rng, w.TOPICS), d=pick(rng, w.DAYS), a=pick(rng, w.ANIMALS), x=" ".join(made_up(rng) for _ in range(5)))
    if rng.random() < 0.2:
        facts = [memory.new_fact() for _ in range(1 + int(rng.random() * 4))]
        for f in facts:
            if f.slots.get("n") == "my":
                continue
            text += " " + capital(phrase(rng, f.kind.note, **f.filled())).replace("My ", "The user's ").replace("Our ", "The ")
            memory.keep(f)
    return [("system", text if rng.random() < 0.95 else "", 0.0)]


def conversation(rng, budget, kind="mixed"):
    """A conversation that goes on past budget (in characters); the caller cuts it. Of kind "mixed", or "facts", mostly
    facts and questions about them, which is how recall is learnt fastest, or "sums", mostly practice in numbers."""
    voice = Voice(rng)
    memory = Memory(rng, voice)
    out = system_message(rng, memory) if rng.random() < 0.4 else []
    size = 0
    r = rng.random()
    # How talkative about facts this conversation is, how fast it asks, and whether it starts with notes.
    state, ask = (0.0, 0.0) if r < 0.12 else (0.3, 0.35) if r < 0.55 else (0.12, 0.3) if r < 0.85 else (0.05, 0.5)
    if kind == "facts":
        state, ask = 0.35, 0.5
    script = []
    if r >= 0.85:
        script += [memory.state_turn() for _ in range(1 + int(rng.random() * 3))]
    if 0.45 < r < 0.62 and budget > 600:
        n = 2 + int(rng.random() * min(100, budget / 120))
        script.append(memory.notes_turns(n, rng.random() < 0.4 and n < budget / 300))
    quiet = budget * rng.random() * 0.9 if r >= 0.9 and kind == "mixed" else 0      # a long stretch of filler before the first question
    while size < budget:
        if script:
            turn = script.pop(0)
        else:
            x = rng.random()
            few = len(memory.facts)
            if kind == "sums" and rng.random() < 0.9:
                turn = _messages(_draw(rng, _SUMS)(rng, voice), WEIGHT_SUM)
            elif size < quiet:
                turn = filler(rng, voice)
            elif x < state:
                turn = memory.state_turn()
            elif x < state + ask and few and (few > 2 or rng.random() < 0.5):
                y = rng.random()
                turn = memory.update_turn() if y < 0.1 else memory.check_turn() if y < 0.16 else memory.unknown_turn() if y < 0.25 else \
                    memory.about_me_turn() if y < 0.35 and few < 5 else memory.ask_two_turn() if y < 0.4 and few > 1 else memory.ask_turn()
            elif x > 0.985:
                turn = memory.about_me_turn() if few < 4 else memory.ask_turn()
            elif x > 0.965:
                turn = memory.unknown_turn()
            else:
                turn = skill(rng, voice)
        out += turn
        size += sum(len(t[1]) + 8 for t in turn)
    return out


def document(rng, budget):
    """Plain text without roles, for plain completion: stories and poems."""
    parts, size = [], 0
    while size < budget:
        text = story(rng)[0] if rng.random() < 0.8 else poem(rng, Voice(rng))[0][1]
        parts.append(text)
        size += len(text)
    return "\n\n".join(parts)
