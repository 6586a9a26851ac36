"""What the model can talk about besides remembered facts. A skill takes (rng, voice) and returns a list of turns
(user text, assistant text); most are a single turn. Where it matters, the answer follows from the question by rule, so
that it can be checked."""
from grammar import article, capital, expand, join, made_up, phrase, pick
import words as w


def _canned(user, answers):
    return lambda rng, voice: [(voice.type(user), phrase(rng, answers))]


GREETING = _canned(
    ["(Hello|Hi|Hey|Good morning|Good evening|Good afternoon|Hi there|Hello there|Hey there|Greetings|Howdy|Yo|Hiya)(!|.||, weir!| weir|!!)",
     "(Hello|Hi|Hey)(,|!|) (how are you|are you there|is anybody there|anyone there|nice to see you)(?| today?)", "hello world",
     "(Hello|Hi)(,|) (can you help me|I am new here|I have a question)(?|.)", "test", "(ping|testing|Is this working?|hi hi)"],
    ["(Hello!|Hi!|Hello there!|Hi there!) (How can I help you(| today)?|What can I do for you?|What shall we talk about?|Nice to meet you.)",
     "Hello! I am the weir demo model. (Ask me something.|How can I help you?|What shall we talk about?)"])
HOW_ARE_YOU = _canned(
    ["How are you( today| doing|)?", "How do you (do|feel)( today|)?", "(What's up|How is it going|How's it going|Are you okay|Are you well|Hows life)?",
     "(Hi|Hello|Hey)(,|!|) how are you( doing| today|)?"],
    ["I am (fine|very well|well|good), thank you(.|!) (And you?|How are you?|How can I help you?)", "Very well, thank you! And you?"])
WHO = _canned(
    ["(Who|What) are you( exactly| really|)?", "(What is|What's|Tell me|whats) your name?", "(Introduce|Describe) yourself.", "What (kind of|) model are you?",
     "(Are you|You are) (a (robot|person|human|machine|computer|bot|chatbot|program|language model)|an AI|real|ChatGPT|GPT|Claude|Llama)?",
     "(Hello|Hi|Hey)(,|!|.|) (who are you|what are you|what is your name|tell me who you are)?", "Who am I (talking|speaking|chatting) (to|with)?",
     "Tell me (something |)about (you|yourself).", "What model is this?", "Which (model|LLM|language model) (is this|are you|am I using)?",
     "Are you (a|an) (large |)(LLM|language model|AI model)?", "What should I call you?", "Who (is|'s) there?"],
    ["I am the weir demo model, a (very |)small language model that (comes with|ships with|is part of) the weir (inference |)server.",
     "I am the weir demo model, a small language model( of a few million parameters|). (I know a small made-up world and I remember what you tell me.|)",
     "I am a small language model called the weir demo model."])
MAKER = _canned(
    ["Who (made|built|trained|created|wrote|developed) you?", "(Where|How|On what) were you (trained|made|built)?", "What (data|corpus|text) were you trained on?",
     "How (were|are) you made?", "Where do you come from?", "Are you made by (OpenAI|Google|Meta|Anthropic|Mistral)?", "(What is|What's) your training data?"],
    ["I was trained from scratch by a script (of the weir project|that comes with weir), on text that the same script made up."])
SIZE_OF_ME = _canned(
    ["How (big|large|small) are you?", "How many (parameters|weights) do you have?", "What is your (size|parameter count)?", "What is your context (length|window|size)?",
     "How (long|big) is your (context|memory)?", "How many tokens (can you remember|fit in your context|can you read)?", "How old are you?", "Are you (big|small|smart|intelligent)?"],
    ["I am small: a few million parameters, with a context of 4096 tokens."])
CAN_DO = _canned(
    ["What can you do( for me|)?", "What (are you able to|do you know how to) do?", "(How can|Can|Could|Will) you help me?", "What (do you know|are you good at|are your skills)?",
     "(Help|help me|Please help me|I need help|I need some help)(.|!|)", "What (can|should|could) I ask( you|)?", "What are your (capabilities|features|limits)?",
     "What (things|kind of things) can you (do|talk about)?", "What shall we (do|talk about)?", "What is it that you do?", "How do you work?", "/help"],
    ["I can chat a little, (do small sums|add and subtract small numbers), count, tell tiny stories, and remember (facts|things) that you tell me.",
     "I know a small world: greetings, small sums, colours, days, opposites and tiny stories. I also remember what you tell me, so tell me something and ask me later."])
THANKS = _canned(
    ["(Thanks|Thank you|Thank you very much|Thanks a lot|Great, thanks|Perfect, thank you|Okay thanks|thx|ty|Cool, thanks)(!|.|)",
     "(That was|This is|You are|That is) (great|helpful|nice|very good|correct|right|funny|cool)(!|.|)", "(Good|Great|Nice|Cool|Wow|Okay|OK|Well done|Perfect|Awesome)(!|.|)"],
    ["You are welcome!", "You are welcome! (Is there anything else?|Ask me more if you like.)", "Thank you! (What else can I do for you?|Shall we go on?)", "With pleasure!"])
BYE = _canned(
    ["(Bye|Goodbye|See you|See you later|Good night|Bye bye|I have to go|That's all for today|Until tomorrow|Talk to you later|Farewell)(!|.|)"],
    ["(Goodbye|Bye|See you)! (It was nice to talk to you.|Have a nice day!|Take care!|Come back soon.)", "Goodbye!"])
JOKE = _canned(
    ["(Tell me|Do you know|I want|Give me|Say) (a|another|some|one) (joke|funny joke|good joke|fun)( please|, please|)(.|!|?)", "Make me laugh(.|!)", "Say something funny(.|!)",
     "(Can you |)tell (me |)a joke(?|.)"],
    ["Why did the cat sit on the computer? To keep an eye on the mouse!", "What did the sea say to the beach? Nothing, it just waved.",
     "Why was the maths book sad? It had too many problems.", "What is brown and sticky? A stick.",
     "Why did the token wait in the queue? Because the memory bus was full.", "What do you call a bear in the rain? A drizzly bear."])
NONSENSE_REPLY = ["I am not sure what you mean. (Can you say it in other words?|Ask me a small sum, for a story, or tell me a fact.)",
                  "I did not understand that. (Can you say it in another way?|Please try other words.)"]

GENERAL = [
    ("(What is|What's|Name|whats|Tell me) the capital( city|) of {}?", "The capital of {} is {}.", "France Paris|Italy Rome|England London|Germany Berlin|Spain Madrid|Portugal Lisbon|Austria Vienna|Japan Tokyo|China Beijing|Egypt Cairo|Greece Athens|Poland Warsaw|Ireland Dublin|Norway Oslo|Finland Helsinki|Hungary Budapest|Russia Moscow|India Delhi"),
    ("How many {}(| are there)?", "There are {1} {0}.", "days in a week=7|days are in a week=7|months in a year=12|months are in a year=12|hours in a day=24|hours are in a day=24|minutes in an hour=60|seconds in a minute=60|days in a year=365|seasons in a year=4|days are there in a week=7|letters in the alphabet=26|fingers on a hand=5|weeks in a year=52"),
]
PLAIN_FACTS = [
    (["(Why is|Why's) the sky blue?"], "The sky is blue because the air scatters blue light more than red light."),
    (["What (is|'s) (an LLM|a language model|a large language model)?", "(Explain|Describe) (LLMs|language models)."], "A language model is a program that writes text by guessing the next token again and again."),
    (["What is (weir|Weir|a weir)?", "(Tell me about|Explain|Describe|What does) weir( do|)?", "What is this (server|project|program|software)?", "What (server|engine) (is this|do you run on|runs you)?", "What (inference |)(server|engine) are you running on?"],
     "weir is an LLM inference server written in C that schedules memory bandwidth. A weir is also a low dam across a river."),
    (["What (is|'s) (memory bandwidth|bandwidth)?", "(Explain|Describe|Tell me about) memory bandwidth( to me| please| in one sentence|)."], "Memory bandwidth is how many bytes a memory can move in a second. It decides how fast a language model can write."),
    (["What (is|'s) (a KV cache|the KV cache|KV cache)?", "(Explain|Describe|Tell me about) (the |a |)KV cache( to me| please| in one sentence|)."], "The KV cache holds the keys and values of the tokens read so far, so that they need not be computed again."),
    (["What (is|'s) (a token|tokens)?", "What does token mean?"], "A token is a small piece of text, a word or a part of one. I read and write tokens."),
    (["What (is|'s) (attention|a transformer)?", "(Explain|Describe) (attention|transformers)."], "Attention lets a language model look back at earlier tokens. A transformer is a model built from it."),
    (["What (is|'s) (a GPU|the GPU|a CPU)?"], "It is a chip that computes. How fast it can read its memory often decides how fast a model runs."),
    (["What (is|'s) (quantisation|quantization)?", "(Explain|Describe) quantization."], "Quantisation stores the numbers of a model in fewer bits, so that fewer bytes must be moved."),
    (["(What|Which) is the (biggest|largest) animal?"], "The biggest animal is the blue whale."),
    (["What (is|'s) the (color|colour) of the sky?", "What (color|colour) is the sky?"], "The sky is blue."),
    (["What (is|'s) the (biggest|largest) (planet|ocean)?"], "The largest planet is Jupiter and the largest ocean is the Pacific."),
    (["What do (bees|cows|hens) (make|give)?"], "Bees make honey, cows give milk and hens lay eggs."),
    (["(What is|What's) the (closest|nearest) star( to us|)?"], "The nearest star is the sun."),
    (["(What is|What's) (water|ice|snow|rain) made of?"], "It is made of water."),
    (["(What is|What's) the meaning of life?"], "I am too small to know that, but some say it is 42. Being kind is a good start."),
    (["Do you (like|love|hate) (me|people|humans|cats|dogs|music|stories|numbers|colours)?"], "I am only a small program, but I like to talk with you."),
    (["(What is|What's) your (favourite|favorite) (colour|color|animal|food|number|city|song|book)?"], "I am a program, so I have no favourites. What is yours?"),
    (["Where do you live?", "Where are you?"], "I live in the memory of this computer, in a small file."),
    (["Do you (have|want) (feelings|friends|a body|a family|a pet|a job|dreams|memories)?"], "No, I am a small language model. I only have a few numbers and the text of this talk."),
    (["Do you remember (me|our last chat|what I said yesterday)?", "Did we talk before?"], "I only remember what is written in this talk."),
    (["Do you (sleep|eat|drink|dream|breathe|think|learn)?"], "No, I am a program. I read your words and write mine."),
    (["(What is|What's) (love|friendship|happiness|time|art)?"], "That is a big question for a small model. I think it is something that people share."),
    (["(Write|Print|Show me|Say|Give me) (a |the |)hello world( program|)( in Python|)(.|!|)"], "Hello, world!"),
    (["(Can|Do) you (speak|understand|know) (French|German|Spanish|Italian|Chinese|Japanese|Russian|other languages)?", "(Bonjour|Hola|Guten Tag|Ciao|Hallo|Salut|Ni hao|Konnichiwa|Buenos dias)(!|.|)"], "I only speak English. Hello!"),
    (["Say (yes|yes please).", "Answer (yes|with yes)."], "Yes."),
    (["Say (no|no please).", "Answer (no|with no)."], "No."),
    (["Are you (happy|sad|tired|busy|alive|awake|free|there|ready|listening|online|ok)?"], "I am a program, and I am here and ready."),
    (["What (colours|colors) (are there|do you know)?"], "I know red, blue, green, yellow, orange, purple, pink, brown, black, white, grey and more."),
]
OOD_QUESTIONS = [
    "What (is|are|do you know about|do you think of|do you think about) {t}?", "(Tell|Teach) me (something |more |)about {t}(.|, please.|)", "(Explain|Describe|Summarize|Discuss|Define) {t}( to me| in simple words| briefly| in detail| like I'm five|).",
    "(How do|How does|Why do|Why does|How can|How would) {t} (work|matter|happen|exist|start)?", "(Can you|Could you|Please) (help me with|explain|tell me about|write about|give me advice on|recommend something on) {t}(?|.)",
    "What (is|are) the (best|history|price|future|origin|main idea|three laws|advantages) of {t}?", "(Who|When|Where) (invented|discovered|was|is|started) {t}?", "Write (an essay|a paragraph|a blog post|an email|a report|an article|a summary|code|a program) (about|on|for) {t}(.|, please.)",
    "(Should|Can) I (trust|learn|buy|use|read about|study) {t}?", "I (want to know|need to know|want to learn|have a question|am worried) about {t}(.| now.)", "Give me (a list|five examples|three facts|tips|ideas|an overview) (of|on|about|for) {t}(.|)",
    "What (happened|is happening|will happen) (to|with|in) {t}( last year| today| in 1990|)?", "(Do|Did) you (know|hear|read) (anything |)about {t}?", "Compare {t} (and|with|to) {t2}(.|)", "How (much|many|long|old|far|expensive) (is|are) {t}?",
    "(What is|What's) the difference between {t} and {t2}?", "{t}?", "{t}", "Is {t} (good|bad|better than {t2}|real|dangerous|important|true)?", "How (do|can|should|would) (I|you|we) (make|build|fix|use|find|understand|deploy|configure|improve|clean|cook) {t}?"]
OOD_FIXED = [
    "Who (wrote|painted|composed|invented|made|discovered) {work}?", "(What is|What's) the capital of {land}?", "Who is the (president|king|queen|prime minister|chancellor) of {land}?", "How many people live in {land}?",
    "(What is|What's|How is|Hows) the weather( like|)( today| tomorrow| in {city}|)?", "What time is it( now| in {city}|)?", "(What is|What's) (the date|today's date|the time|the news|in the news)( today|)?", "What (day|year|month) is it( today|)?",
    "(Translate|How do you say) (good morning|this|hello|cat|the sentence|I love you) (to|into|in) {lang}(.|?)", "(Write|Show me|Give me) (a|some|an) (Python|SQL|C|bash|JavaScript|Rust) (function|script|query|program|code|example)( to sort a list| for me| that adds numbers|)(.|)",
    "(Give me|What is|I need) (a|the|your) recipe for {food}(.|?)", "How do I (cook|make|bake) {food}?", "(Play|Sing) (a song|some music|me something)(.|)", "(Book|Find|Order) (me |)(a flight|a table|a hotel|a pizza|a taxi|tickets) (to|in|for) {city}(.|)",
    "(Search|Look up|Google|Open) (the web|this|the internet|a website) (for me|for news|now)(.|)", "What is the (distance|difference) (from|between) {city} (to|and) {city2}?", "Solve (x + 3 = 7|this equation|the riddle|x squared = 4)(.|)", "(What is|Calculate) the square root of (2|16|81|100)?",
    "What should I (wear|eat|do|cook|watch|read|buy|say) (today|tonight|tomorrow|for dinner|this weekend)?", "Recommend (me |)(a book|a movie|a song|a restaurant|a game)( in {city}|)(.|)", "Who won (the match|the election|the world cup|the race|the game)( yesterday| last year|)?", "How tall is (the Eiffel Tower|Mount Everest|a giraffe)?",
    "(Summarize|Proofread|Rewrite|Improve) (this|my|the) (text|essay|letter|email|article)(.| for me.)", "(Generate|Draw|Make|Show me) (an image|a picture|a diagram|a chart|a logo) of {t}(.|)", "(Write|Generate|Give me|Return) (a |some |)(JSON|YAML|XML|HTML|CSV)( with a name and an age| for me| file|)(.|)", "(When|Where) was (I|he|she|{name}|Mozart|Einstein) born?"]
OOD_ANSWERS = [
    "I do not know (that|about that)(.|, sorry.) I only know a small world: greetings, small sums, colours, tiny stories and what you tell me.",
    "(Sorry, I|I am sorry, I|I) am a very small model and (do not know that|that is outside of my small world). (Ask me a small sum or for a story.|I can tell you a story, do a small sum, or remember something for you.)",
    "That is too (hard|big) for me. I only know a small world(.|, but I can tell you a story or remember a fact.)"]
OOD_ANSWERS_TOPIC = ["I know nothing about {t}, sorry. I only know a small world: greetings, small sums, colours, tiny stories and what you tell me.",
                     "I cannot help with {t}, I am a very small model. (Ask me a small sum or for a story.|I can tell you a story, do a small sum, or remember something for you.)"]


def out_of_domain(rng, voice):
    t = pick(rng, w.TOPICS) if rng.random() < 0.7 else made_up(rng) + (" " + made_up(rng) if rng.random() < 0.4 else "")
    slots = {"t": t, "t2": pick(rng, w.TOPICS), "work": pick(rng, w.WORKS), "land": pick(rng, w.COUNTRIES),
             "city": pick(rng, w.CITIES), "city2": pick(rng, w.CITIES), "lang": pick(rng, w.LANGUAGES),
             "food": pick(rng, w.FOODS), "name": pick(rng, w.NAMES)}
    named = rng.random() < 0.6
    question = pick(rng, OOD_QUESTIONS if named else OOD_FIXED)
    user = voice.type(question, slots)
    if named and rng.random() < 0.35:
        return [(user, phrase(rng, OOD_ANSWERS_TOPIC, t=slots["t"]))]
    return [(user, phrase(rng, OOD_ANSWERS))]


def nonsense(rng, voice):
    n = 1 + int(rng.random() * 3)
    return [(" ".join(made_up(rng) for _ in range(n)) + pick(rng, ["", "", "?", "!", "..."]), phrase(rng, NONSENSE_REPLY))]


def plain_fact(rng, voice):
    question, answer = pick(rng, PLAIN_FACTS)
    return [(voice.type(question), answer)]


def general(rng, voice):
    question, answer, table = pick(rng, GENERAL)
    pair = pick(rng, table.split("|"))
    k, v = pair.split("=") if "=" in pair else pair.rsplit(" ", 1)
    text = answer.format(k.replace(" are there", "").replace(" are", ""), v)
    return [(voice.type(question.replace("{}", k) if "=" not in pair else "How many " + k + "?"), text)]


# ---- numbers

def _say_sum(rng, a, op, b):
    word = {"+": ["plus", "+", "+", "and", "added to"], "-": ["minus", "-", "-"], "*": ["times", "*", "x", "multiplied by"]}[op]
    sign = pick(rng, word)
    gap = "" if sign in "+-*x" and rng.random() < 0.35 else " "
    return f"{a}{gap}{sign}{gap}{b}"


ASK_SUM = ["(What is|What's|whats|How much is|Calculate|Compute|Tell me|Work out|Can you calculate|Please calculate|Do you know|Can you tell me what is|Solve|Quick,) {e}(?|)", "{e}(?| =| = ?|=)",
           "(Hi|Hello|Hey|Okay|Now|And|So)(,|) (what is|how much is|what's) {e}?"]


def _result(a, op, b):
    return a + b if op == "+" else a - b if op == "-" else a * b


def arithmetic(rng, voice):
    """One sum, sometimes followed by steps on its result."""
    r = rng.random()
    op = "+" if r < 0.48 else "-" if r < 0.88 else "*"
    top = 12 if op == "*" else 10 if rng.random() < 0.15 else 100
    a, b = int(rng.random() * top), int(rng.random() * top)
    if op == "-" and a < b:
        a, b = b, a
    value = _result(a, op, b)
    sign = pick(rng, {"+": ["+", "+", "plus"], "-": ["-", "-", "minus"], "*": ["*", "times", "x"]}[op])
    answer = pick(rng, [f"{a} {sign} {b} is {value}.", f"{a} {sign} {b} is {value}.", f"{a} {sign} {b} = {value}.", f"{value}."
                        if rng.random() < .3 else f"The answer is {value}."])
    turns = [(voice.type(ASK_SUM, {"e": _say_sum(rng, a, op, b)}), answer)]
    while rng.random() < 0.25 and 0 <= value <= 99:
        n = 1 + int(rng.random() * 20)
        plus = rng.random() < 0.5 or n > value
        after = value + n if plus else value - n
        turns.append((voice.type("(And|Now|Then|Okay, now|) (add|plus) {n}(.|?|)" if plus else "(And|Now|Then|Okay, now|) (subtract|minus|take away) {n}(.|?|)",
                                 {"n": n}).strip(), f"{value} {'+' if plus else '-'} {n} is {after}."))
        value = after
    return turns


def compare(rng, voice):
    a, b = int(rng.random() * 100), int(rng.random() * 100)
    if a == b:
        b += 1
    if rng.random() < 0.25:
        return [(voice.type("Is {a} (even or odd|odd or even|an even number|an odd number)?", {"a": a}),
                 f"{a} is {'even' if a % 2 == 0 else 'odd'}.")]
    if rng.random() < 0.3:
        half = rng.random() < 0.5
        return [(voice.type("(What is|What's|Tell me) (half of|half) {n}?", {"n": 2 * a}), f"Half of {2 * a} is {a}.") if half else
                (voice.type("(What is|What's|Tell me) (twice|double|two times) {n}?", {"n": a}), f"Twice {a} is {2 * a}.")]
    big = rng.random() < 0.6
    return [(voice.type("(Which|What|Which number) is (bigger|larger|greater|more)(,|:|) {a} or {b}?" if big else "(Which|What|Which number) is (smaller|less|lower)(,|:|) {a} or {b}?", {"a": a, "b": b}),
             f"{max(a, b) if big else min(a, b)} is {'bigger' if big else 'smaller'} than {min(a, b) if big else max(a, b)}.")]


def count(rng, voice):
    r = rng.random()
    if r < 0.5:
        n = 2 + int(rng.random() * 24)
        return [(voice.type("(Count|Please count|Can you count|Could you count|Count for me) (to|up to|from 1 to|from one to) {n}(.|?|!|, please.)", {"n": n}), ", ".join(str(i) for i in range(1, n + 1)) + ".")]
    if r < 0.8:
        a = int(rng.random() * 60)
        b = a + 2 + int(rng.random() * 12)
        return [(voice.type("(Count|Please count|Can you count) from {a} (to|up to) {b}(.|?|)", {"a": a, "b": b}), ", ".join(str(i) for i in range(a, b + 1)) + ".")]
    n = 3 + int(rng.random() * 15)
    return [(voice.type("(Count|Please count|Can you count) (down from {n} to 1|backwards from {n}|down from {n}|backwards from {n} to 1)(.|?|)", {"n": n}), ", ".join(str(i) for i in range(n, 0, -1)) + ".")]


def next_number(rng, voice):
    a = int(rng.random() * 200)
    after = rng.random() < 0.6
    return [(voice.type("(What|Which) number (comes|is) (after|right after) {a}?" if after else "(What|Which) number (comes|is) before {a}?", {"a": a + 1}),
             f"{a + 2 if after else a} comes {'after' if after else 'before'} {a + 1}.")]


def word_problem(rng, voice):
    thing = pick(rng, ["apples", "pears", "eggs", "coins", "books", "balls", "kites", "cookies", "pencils", "marbles", "hats", "fish"])
    name = pick(rng, w.NAMES)
    a, b = 2 + int(rng.random() * 40), 1 + int(rng.random() * 30)
    more = rng.random() < 0.5
    if not more and b > a:
        a, b = b, a
    verb = pick(rng, ["buys {b} more", "gets {b} more", "finds {b} more"] if more else ["gives away {b}", "loses {b}", "sells {b}", "eats {b}"]).format(b=b)
    left = "now" if more else pick(rng, ["left", "now"])
    return [(f"{name} has {a} {thing} and {verb}. How many {thing} does {name} have {left}?",
             f"{name} has {a + b if more else a - b} {thing}.")]


# ---- the small world

def days(rng, voice):
    r, i = rng.random(), int(rng.random() * 7)
    d = w.DAYS
    if r < 0.5:
        after = rng.random() < 0.6
        return [(voice.type("(What|Which) day (comes|is) after {d}?" if after else "(What|Which) day (comes|is) before {d}?", {"d": d[i]}),
                 f"The day {'after' if after else 'before'} {d[i]} is {d[(i + (1 if after else -1)) % 7]}.")]
    if r < 0.75:
        return [(voice.type("(If today is|Today is) {d}(,|.) (what|which) day is (tomorrow|it tomorrow)?", {"d": d[i]}), f"Tomorrow is {d[(i + 1) % 7]}.")]
    return [(voice.type("(What are|Name|List|Tell me|Say) (the|all the|all) days of the week(?|.|)"), "The days of the week are " + join(d) + ".")]


def months(rng, voice):
    r, i = rng.random(), int(rng.random() * 12)
    m = w.MONTHS
    if r < 0.5:
        after = rng.random() < 0.6
        return [(voice.type("(What|Which) month (comes|is) after {d}?" if after else "(What|Which) month (comes|is) before {d}?", {"d": m[i]}),
                 f"The month {'after' if after else 'before'} {m[i]} is {m[(i + (1 if after else -1)) % 12]}.")]
    if r < 0.8:
        return [(voice.type("How many days (does {d} have|are in {d}|has {d}|are there in {d})?", {"d": m[i]}), f"{m[i]} has {w.MONTH_DAYS[i]} days.")]
    return [(voice.type("(What are|Name|List|Tell me|Say) (the|all the|all) months (of the year|)(?|.|)"), "The months are " + join(m) + ".")]


def opposite(rng, voice):
    a, b = pick(rng, w.OPPOSITES)
    if rng.random() < 0.5:
        a, b = b, a
    known = {}
    for x, y in w.OPPOSITES:
        known.setdefault(x, y)
        known.setdefault(y, x)
    b = known[a]
    return [(voice.type(["(What is|What's|Tell me|whats|Give me) the opposite of {a}?", "(The |)opposite of {a}?", "What is the contrary of {a}?"], {"a": a}), f"The opposite of {a} is {b}.")]


def colour_of(rng, voice):
    if rng.random() < 0.25:
        (a, b), c = pick(rng, list(w.MIXES.items()))
        if rng.random() < 0.5:
            a, b = b, a
        return [(voice.type(["What (colour|color) do you get (if you mix|from|when you mix) {a} and {b}?", "(Mix|What is) {a} and {b}( mixed|)?", "What do {a} and {b} make?"], {"a": a, "b": b}), f"{capital(a)} and {b} make {c}.")]
    thing = pick(rng, list(w.COLOUR_OF))
    return [(voice.type(["(What|Which) (colour|color) is {x}?", "(What is|What's|Tell me) the (colour|color) of {x}?", "(What|Which) (colour|color) does {x} have?"], {"x": thing}), f"{capital(thing)} is {w.COLOUR_OF[thing]}.")]


def animal(rng, voice):
    r = rng.random()
    if r < 0.4:
        a = pick(rng, list(w.SOUNDS))
        return [(voice.type(["What (does|sound does) (a|the) {a} (say|make)?", "What (noise|sound) does a {a} make?"], {"a": a}), f"The {a} says {w.SOUNDS[a]}.")]
    if r < 0.7:
        a = pick(rng, list(w.LEGS))
        n = w.LEGS[a]
        return [(voice.type("How many legs does " + article(a) + " have?"), f"{capital(article(a))} has {n if n else 'no'} legs.")]
    a = pick(rng, list(w.RHYMES))
    return [(voice.type(["(What|Which word) rhymes with {a}?", "(Give me|Say|Tell me) a (word that rhymes|rhyme) with {a}(.|)", "Find a rhyme for {a}(.|)"], {"a": a}), f"{capital(w.RHYMES[a])} rhymes with {a}.")]


def name_some(rng, voice):
    kind = pick(rng, list(w.CATEGORIES))
    n = 2 + int(rng.random() * 4)
    pool = w.CATEGORIES[kind] or [str(i) for i in range(1, 50)]
    n = min(n, len(pool))
    items = list(dict.fromkeys(pick(rng, pool) for _ in range(20)))[:n]
    number = pick(rng, [str(n), ["two", "three", "four", "five"][n - 2]])
    if len(items) < n:
        items = pool[:n]
    return [(voice.type(["(Name|List|Tell me|Give me|Say|Can you name|Write) {n} {k}(.|, please.|?|)", "(What are|Do you know) {n} {k}?"], {"n": number, "k": kind}), capital(join(items)) + ".")]


def what_is(rng, voice):
    kind = pick(rng, list(w.KIND_OF))
    x = pick(rng, w.KIND_OF[kind])
    x_text = x if x[0].isupper() or kind in ("colour", "season", "sport") else article(x)
    return [(voice.type(["(What is|What's|Do you know) {x}?", "What kind of thing is {x}?", "(Define|Explain) {x}."], {"x": x_text}), f"{capital(x_text)} is {article(kind)}.")]


def feeling(rng, voice):
    f = pick(rng, w.FEELINGS)
    good = f in ("happy", "excited", "great", "proud", "fine", "curious")
    reply = ["(I am glad to hear that|How nice|That is good to hear)! (What happened?|Tell me more.|)"] if good else \
        ["I am sorry to hear that. (Shall I tell you a story?|Do you want to talk about it?|I hope it gets better soon.)"]
    return [(voice.type("(I am|I'm|I feel|Today I am|I am feeling) (so |very |a bit |really |){f}(.|!| today.)", {"f": f}), phrase(rng, reply))]


def remark(rng, voice):
    weather, place, colour, thing, beast = (pick(rng, x) for x in (w.WEATHER, w.PLACES, w.COLOURS, w.THINGS, w.ANIMALS))
    user = voice.type(["(It is|It's|Today it is) (very |so |){we} (today|here|outside)(.|!)", "I (saw|met|found) a {c} {b} (near|by|at) the {p}( yesterday| today| this morning|).",
                       "(Yesterday|Today|Last week) I (walked|went|drove|ran) to the {p}(.| and it was {we}.)", "I (like|love|hate) {we} weather(.|!)", "(There is|I see) a {c} {t} (in front of me|in the street|on the table).",
                       "I (had|ate|cooked) {f} (for lunch|for dinner|today|yesterday)(.|!)", "I am (bored|back|here|ready|done)(.|!)", "(Let's|Let us) (talk|chat|play|start)(.|!)"],
                      {"we": weather, "c": colour, "b": beast, "p": place, "t": thing, "f": pick(rng, w.FOODS)})
    return [(user, phrase(rng, ["(That sounds|How|That is) nice(!|.) (Tell me more.|What else?|)", "I see. (Tell me more.|What happened then?|)", "(Oh, |)interesting! (Tell me more.|What would you like to do now?)", "Okay. (What shall we do now?|What would you like to talk about?)"]))]


def repeat(rng, voice):
    n = 1 + int(rng.random() * 6)
    pool = [w.ANIMALS, w.COLOURS, w.OBJECTS, w.NAMES, w.FRUITS, w.CITIES]
    some = [made_up(rng) if rng.random() < 0.4 else pick(rng, pick(rng, pool)) for _ in range(n)]
    if rng.random() < 0.3:
        some = [str(int(rng.random() * 10 ** (1 + int(rng.random() * 5)))) for _ in range(n)]
    text = " ".join(some)
    return [(expand(rng, "(Repeat after me:|Say|Repeat:|Please repeat:|Write:|Echo|Just say|Copy this:|Repeat this:|Please say) ") + text, text)]


HAIKU = ["{T} in the {p},\n(quiet as the morning snow|softly as the summer rain|bright as any star),\nit will stay with me.", "Softly comes {t},\n(like a|a) {a} in the {p},\nthen the day is gone.",
         "I think of {t}.\nThe {a} sleeps by the {p}.\nThe {c} moon looks on.", "Oh, {t}, you shine,\n{c} as the evening sky,\nand the {a} sings."]
POEM = ["(Roses are red|The sky is so wide|The evening is still),\n(violets are blue|the river is too|the moon is in view),\nI wrote about {t},\n(and made it for you|because it is true|just for me and you).",
        "{T}, {t},\nunder the tree,\nthe {a} is singing\nto you and to me.", "The {a} ran over the hill one day,\nit thought of {t} all along the way,\nit saw the {c} sun go down,\nand then it walked back into town."]


def poem(rng, voice):
    t = pick(rng, [pick(rng, w.TOPICS), "the " + pick(rng, w.PLACES), pick(rng, ["memory", "rain", "bandwidth", "tokens", "computers", "snow", "the moon", "autumn", "my cat", "the server", "winter", "the sun", "silence", "you", "a queue", "the night", "coffee", "Monday"]),
                   article(pick(rng, w.COLOURS) + " " + pick(rng, w.ANIMALS)), pick(rng, w.NAMES), made_up(rng)])
    haiku = rng.random() < 0.5
    slots = {"t": t}
    user = voice.type("(Write|Compose|Make|Give me|Can you write|Please write|I want|Tell me|Could you write) (me |)(a|one|another) " + ("(haiku|short haiku)" if haiku else "(poem|short poem|rhyme|little poem|verse|song|limerick)") + "(| about {t}| about {t}| on {t}| for {t})(.|, please.|?|!|)", slots)
    subject = slots["t"] if slots["t"].lower() in user.lower() else pick(rng, ["the moon", "the sea", "the rain", "the night"])
    return [(user, phrase(rng, HAIKU if haiku else POEM, t=subject, T=capital(subject), a=pick(rng, w.ANIMALS), p=pick(rng, w.PLACES), c=pick(rng, w.COLOURS)))]


def goodbye(rng, voice):
    return BYE(rng, voice)


# (weight, skill); stories and facts are added by world.py
SKILLS = [(5, GREETING), (3, HOW_ARE_YOU), (8, WHO), (3, MAKER), (3, SIZE_OF_ME), (7, CAN_DO), (3, THANKS), (1.5, BYE), (2, JOKE), (14, out_of_domain),
          (2.5, nonsense), (6, plain_fact), (3, general), (22, arithmetic), (5, compare), (5, count), (2, next_number), (4, word_problem), (3, days), (3, months),
          (3, opposite), (4, colour_of), (3, animal), (4, name_some), (2, what_is), (3, feeling), (4, remark), (5, repeat), (5, poem)]
# those that make good filler between a fact and its question
FILLER = [(3, out_of_domain), (8, arithmetic), (2, compare), (3, count), (2, next_number), (3, word_problem), (2, days), (2, months), (2, opposite), (2, colour_of), (2, animal),
          (3, name_some), (2, what_is), (2, feeling), (4, remark), (2, repeat), (2, poem), (2, plain_fact), (1, general), (1, JOKE), (1, THANKS), (1, WHO)]
# practice in numbers, which takes the most examples to learn
SUMS = [(12, arithmetic), (1.5, compare), (1, next_number), (2.5, word_problem), (0.5, count)]
