#!/usr/bin/env python3
"""Writes pretokenizer.txt: words as Hugging Face's tokenizers cuts them (pip install tokenizers; 0.23.3 was used).

Each line is a name of tokenizer.ggml.pre, a tab, and the words in hexadecimal. The pre-tokenizers are those of the
models' own tokenizer.json.
"""
import os
import random

from tokenizers import Regex
from tokenizers import pre_tokenizers as P

TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL
QWEN2 = SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL
QWEN35 = SUFFIX + (r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def cased(suffix, digits):
    one = r"[^\r\n\p{L}\p{N}]?"
    return f"{one}{UPPER}*{LOWER}+{suffix}|{one}{UPPER}+{LOWER}*{suffix}|{digits}|{CASED_TAIL}"


CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
             r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"


def split(regex):
    return P.Split(Regex(regex), "isolated")


def byte_level(use_regex):
    return P.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def digits():
    return P.Digits(individual_digits=True)


PRE = {
    "gpt-2": [byte_level(True)],
    "llama-bpe": [split(LLAMA3), byte_level(False)],
    "qwen2": [split(QWEN2), byte_level(False)],
    "qwen35": [split(QWEN35), byte_level(False)],
    "tekken": [split(cased("", r"\p{N}")), byte_level(False)],
    "gpt-4o": [split(cased(SUFFIX + "?", r"\p{N}{1,3}")), byte_level(False)],
    "falcon": [P.Punctuation("contiguous"), byte_level(True), split("[0-9][0-9][0-9]")],
    "starcoder": [digits(), byte_level(True)],
    "deepseek-coder": [split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(CJK), digits(), byte_level(False)],
    "deepseek-v3": [split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(DEEPSEEK3),
                    byte_level(False)],
    "bloom": [split(BLOOM), byte_level(False)],
    "viking": [split(BLOOM), digits(), byte_level(False)],
    "seed-coder": [split(SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"),
                   byte_level(False)],
    "bailingmoe": [split(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|"
                         r"\s+(?!\S)|\s+"), byte_level(False)],
    "exaone-moe": [split(SUFFIX + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|"
                         r"\s*[\r\n]|\s+(?!\S)|\s+"), byte_level(False)],
}

SPACES = [" ", "  ", "    ", "\t", "\n", "\r\n", "\n\n", " \n", " \t ", "\u00a0", "\u3000", "\u2003", "\u0085", "\u180e",
          "\u200b", "\u1680", "\x0b", "\x1c", "\u2028"]
WORDS = ["hello", "World", "camelCase", "HTMLParser", "don", "I", "Stra\u00dfe", "na\u00efve", "\u0130stanbul",
         "\u01c5ungla", "\ufb00", "e\u0301", "\u1100\u1161\u11a8", "\u043d\u0435\u0449\u043e", "\u4e09\u56db",
         "\u30ab\u30bf", "\ud55c\uad6d", "\u0915\u093f", "\u0e01\u0e34", "\u0645\u0631"]
NUMBERS = ["1", "22", "333", "4444", "1234567", "\u00bd", "\u00b2", "\u2167", "\u0663\u0664", "\U0001d7d9", "\u3007"]
OTHERS = ["'s", "'S", "'LL", "'Re", "'\u017f", "'x", "''", "...", "!=", "(", ")", "/", "//", "=", "$", "+", "`", "|", "<|", "\u2019",
          "\u3002", "\uff01", "\u20ac", "\U0001f680", "\u200d", "\u0301", "\ufffd", "\x01", "\x7f"]


def text(rng):
    kinds = [SPACES, SPACES, WORDS, WORDS, NUMBERS, OTHERS, OTHERS]
    return "".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randint(1, 30)))


def byte_chars():
    """The characters that ByteLevel writes bytes with."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    chars = {chr(b): b for b in printable}
    others = (b for b in range(256) if b not in printable)
    chars.update({chr(256 + i): b for i, b in enumerate(others)})
    return chars


def main():
    rng, chars = random.Random(1), byte_chars()
    texts = [text(rng) for _ in range(40)]
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pretokenizer.txt")
    with open(path, "w", encoding="ascii") as out:
        for name, stages in PRE.items():
            for t in texts:
                words = P.Sequence(stages).pre_tokenize_str(t)
                out.write(name + "\t" + " ".join(bytes(chars[c] for c in w).hex() for w, _ in words) + "\n")


if __name__ == "__main__":
    main()
