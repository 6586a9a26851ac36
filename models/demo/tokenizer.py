"""Byte-level BPE tokenizer: trained on the demo world's own text, and used by training, evaluation and export.

Pre-tokenizer: the one that GGUF names "llama-bpe" (Llama 3). Digits never merge, so a number is read digit by digit.
"""
import json
import re
from collections import Counter, defaultdict

BOS, EOS, SYSTEM, USER, ASSISTANT, END, PAD, UNUSED = SPECIALS = [
    "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>", "<|unused|>"]
ROLE = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('the weir demo model knows the roles system, user and assistant, not ' + message.role) }}"
    "{% endif %}"
    "{{ '<|' + message.role + '|>' }}"
    "{% if message.content is string %}{{ message.content | trim }}"
    "{% else %}{% for part in message.content %}{% if part.type == 'text' %}{{ part.text | trim }}{% endif %}{% endfor %}"
    "{% endif %}"
    "{{ '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}")

# Llama 3's pattern with \p{L} and \p{N} written for the standard library's re.
_LETTER, _NOT_LETTER_OR_NUMBER = r"[^\W\d_]", r"(?:[^\w\r\n]|_)"
SPLIT = re.compile(rf"'(?i:s|t|re|ve|m|ll|d)|{_NOT_LETTER_OR_NUMBER}?{_LETTER}+|\d{{1,3}}| ?(?:[^\s\w]|_)+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_alphabet():
    """The 256 printable characters that stand for the 256 bytes, as GPT-2 has them."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return {b: chr(b if b in keep else 256 + sum(1 for x in range(b) if x not in keep)) for b in range(256)}


ALPHABET = byte_alphabet()


def train(texts, vocabulary_size):
    """Merges in order, most frequent pair first (ties: the smaller pair)."""
    counts = Counter()
    for text in texts:
        counts.update(SPLIT.findall(text))
    items = [(word, n) for word, n in counts.items() if not any(c.isdigit() for c in word)]
    parts = [[ALPHABET[b] for b in word.encode()] for word, _ in items]
    pair_counts, where = Counter(), defaultdict(set)
    for i, ((_, n), word) in enumerate(zip(items, parts)):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += n
            where[pair].add(i)
    merges = []
    while len(merges) < vocabulary_size - 256 - len(SPECIALS):
        best = max(pair_counts, key=lambda p: (pair_counts[p], p))
        merges.append(best)
        for i in list(where[best]):
            word, n = parts[i], items[i][1]
            for pair in zip(word, word[1:]):
                pair_counts[pair] -= n
                where[pair].discard(i)
            merged = _merge(word, best)
            parts[i] = merged
            for pair in zip(merged, merged[1:]):
                pair_counts[pair] += n
                where[pair].add(i)
        del pair_counts[best]
    return merges


def _merge(word, pair):
    out, i = [], 0
    while i < len(word):
        if i + 1 < len(word) and (word[i], word[i + 1]) == pair:
            out.append(word[i] + word[i + 1])
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out


class Tokenizer:
    def __init__(self, merges):
        self.merges = [tuple(m) for m in merges]
        self.tokens = [ALPHABET[b] for b in range(256)] + [a + b for a, b in self.merges] + SPECIALS
        self.ids = {t: i for i, t in enumerate(self.tokens)}
        assert len(self.ids) == len(self.tokens), "a token twice"
        self.rank = {m: i for i, m in enumerate(self.merges)}
        self.bytes = {c: b for b, c in ALPHABET.items()}
        self.cache = {}
        self.bos, self.eos, self.end, self.pad = (self.ids[t] for t in (BOS, EOS, END, PAD))

    @classmethod
    def load(cls, path):
        with open(path) as f:
            return cls([m.split(" ") for m in json.load(f)])

    def save(self, path):
        with open(path, "w") as f:
            json.dump([" ".join(m) for m in self.merges], f, ensure_ascii=True)

    def _word(self, text):
        word = [ALPHABET[b] for b in text.encode()]
        while len(word) > 1:
            best = min(zip(word, word[1:]), key=lambda p: self.rank.get(p, 1 << 30))
            if best not in self.rank:
                break
            word = _merge(word, best)
        return [self.ids[t] for t in word]

    def encode(self, text):
        """Ids of plain text (special tokens are not looked for)."""
        out, cache = [], self.cache
        for piece in SPLIT.findall(text):
            ids = cache.get(piece)
            if ids is None:
                if len(cache) > 400_000:
                    cache.clear()
                ids = cache[piece] = self._word(piece)
            out += ids
        return out

    def decode(self, ids):
        """Text of ids; special tokens by their names."""
        out = []
        for i in ids:
            t = self.tokens[i]
            out.append(t.encode() if t in SPECIALS else bytes(self.bytes[c] for c in t))
        return b"".join(out).decode(errors="replace")

    def encode_chat(self, messages, generation_prompt=True):
        """What the chat template renders, as ids; messages as (role, text) pairs."""
        out = [self.bos]
        for role, text, *_ in messages:
            out += [self.ids[ROLE[role]], *self.encode(text.strip()), self.end]
        return out + [self.ids[ASSISTANT]] if generation_prompt else out
