"""Phrases with choices, and the ways in which people type them.

A phrase is a string in which (a|b|c) stands for one of a, b or c, nested as deep as one likes, and {name} for a slot.
Everything draws from the random.Random that it is given, so one seed gives one text.
"""
import words

_trees = {}


def _parse(text, i, depth):
    """Parses text from i up to the '|' or ')' that ends it; returns ([part, ...], end). A part is a str or a list of
    alternatives, each again a list of parts."""
    parts, start = [], i
    while i < len(text):
        c = text[i]
        if c == "(":
            if i > start:
                parts.append(text[start:i])
            alternatives, i = [], i + 1
            while True:
                alternative, i = _parse(text, i, depth + 1)
                alternatives.append(alternative)
                i += 1
                if text[i - 1] == ")":
                    break
            parts.append(alternatives)
            start = i
        elif depth and c in "|)":
            break
        else:
            i += 1
    if i > start:
        parts.append(text[start:i])
    return parts, i


def _walk(parts, rng, out):
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        else:
            _walk(part[int(rng.random() * len(part))], rng, out)


def expand(rng, phrase):
    """One of the texts that the phrase stands for; slots stay as they are."""
    if "(" not in phrase:
        return phrase
    tree = _trees.get(phrase)
    if tree is None:
        tree = _trees[phrase] = _parse(phrase, 0, 0)[0]
    out = []
    _walk(tree, rng, out)
    return "".join(out)


def pick(rng, items):
    return items[int(rng.random() * len(items))]


def phrase(rng, choices, **slots):
    """Picks one phrase of a list (or takes a single one), expands it and fills its slots."""
    text = expand(rng, choices if isinstance(choices, str) else pick(rng, choices))
    if "{" in text:
        text = text.format_map(slots)
    return text.strip()


def capital(text):
    return text[:1].upper() + text[1:]


def article(noun):
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def join(items):
    """a; a and b; a, b and c"""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def made_up(rng, syllables=None):
    """A word that is in no list, so that the model must copy and cannot guess: "Tarkolin", "Vesh"."""
    text = ""
    for _ in range(syllables or 1 + int(rng.random() * 3)):
        text += (pick(rng, words.SCRAMBLE_ONSETS) + pick(rng, words.SCRAMBLE_VOWELS)
                 + pick(rng, words.SCRAMBLE_CODAS))
    return text


def digits(rng, lowest, highest):
    """A number of lowest..highest digits that does not start with 0."""
    n = lowest + int(rng.random() * (highest - lowest + 1))
    return str(int(rng.random() * 9 + 1)) + "".join(str(int(rng.random() * 10)) for _ in range(n - 1))


class Voice:
    """How one person types: plainly, in lower case, without punctuation, with slips."""

    def __init__(self, rng):
        self.rng = rng
        r = rng.random()
        self.lower = 0.02 if r < 0.68 else 0.95
        self.bare = 0.05 if r < 0.82 else 0.9
        self.slips = 0.0 if rng.random() < 0.8 else 0.05

    def _slip(self, word):
        """One typing mistake in a word; slots and short words stay."""
        rng = self.rng
        if len(word) < 4 or "{" in word or not word.isalpha() or rng.random() > self.slips:
            return word
        i = 1 + int(rng.random() * (len(word) - 2))
        kind = int(rng.random() * 3)
        if kind == 0:
            return word[:i] + word[i + 1:]                              # left out
        if kind == 1:
            return word[:i] + word[i] + word[i:]                        # doubled
        return word[:i] + word[i + 1:i + 2] + word[i] + word[i + 2:]    # swapped

    def type(self, choices, slots=None):
        """Text of one message. Where the voice types lower case, the values in slots (a dict) are lowered in place too,
        so that the caller remembers what was really typed."""
        rng = self.rng
        text = expand(rng, choices if isinstance(choices, str) else pick(rng, choices))
        if self.slips:
            text = " ".join(self._slip(w) for w in text.split(" "))
        lower = rng.random() < self.lower
        if slots:
            if lower:
                for key, value in slots.items():
                    if isinstance(value, str):
                        slots[key] = value.lower()
            if "{" in text:
                text = text.format_map(slots)
        text = text.lower() if lower else capital(text)
        if rng.random() < self.bare:
            text = text.replace("'", "") if rng.random() < 0.5 else text
            text = text.rstrip("?.!")
            if rng.random() < 0.5:
                text = text.replace(",", "")
        return text
