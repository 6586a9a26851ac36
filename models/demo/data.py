"""Token batches for training, made by worker processes while the model trains.

Batch i depends on the seed and i alone. All rows of a batch have one length; every row is one conversation (or one plain
document) from its beginning, so nothing of another conversation is ever in sight.
"""
import multiprocessing
import random

import numpy as np

from grammar import Voice
from tokenizer import ROLE, Tokenizer
import world

WEIGHT_SCALE = 20                       # weights travel as uint8 in units of 1/20
CHARS_PER_TOKEN = 3.6                   # a little more than what the tokenizer needs
STAGES = [                              # (until this part of training, {row length: share of tokens})
    (0.25, {128: 0.6, 256: 0.4}),
    (0.60, {256: 0.7, 512: 0.3}),
    (0.80, {256: 0.4, 512: 0.2, 1024: 0.25, 2048: 0.15}),
    (1.01, {256: 0.35, 512: 0.1, 1024: 0.2, 2048: 0.15, 4096: 0.2}),
]


def row_length(stages, progress, x):
    shares = next(s for limit, s in stages if progress < limit)
    for length, share in shares.items():
        x -= share
        if x < 0:
            return length
    return length


def kind_of_row(rng, progress, length):
    """What a row is about: mostly facts at first, until recall is there; sums in short rows."""
    facts, sums = (0.9, 0.0) if progress < 0.28 else (0.45, 0.25) if progress < 0.6 else (0.2, 0.15)
    x = rng.random()
    return "facts" if x < facts else "sums" if x < facts + sums and length <= 512 else "mixed"


def row(rng, tok, length, kind):
    """length + 1 tokens and their weights (uint8), padded with weight 0."""
    ids, weights = [tok.bos], [0]
    x = rng.random()
    if x < 0.03:
        ids, weights = ids * 2, weights * 2     # a server that adds a BOS to a template that has one
    elif x < 0.05:
        ids, weights = [], []
    if kind == "mixed" and length <= 512 and rng.random() < 0.06:
        body = tok.encode(world.document(rng, rng.random() * length * CHARS_PER_TOKEN)) + [tok.eos]
        ids += body
        weights += [WEIGHT_SCALE] * len(body)
    else:
        for role, text, weight in world.conversation(rng, length * CHARS_PER_TOKEN, kind):
            body = tok.encode(text) + [tok.end]
            ids.append(tok.ids[ROLE[role]])
            ids += body
            weights.append(0)
            weights += [int(weight * WEIGHT_SCALE)] * len(body)
    n = length + 1
    if len(ids) < n:
        ids += [tok.pad] * (n - len(ids))
        weights += [0] * (n - len(weights))
    return ids[:n], weights[:n]


def batch(seed, index, progress, tokens, tok):
    """Batch of that index for a model that is that far (0..1) through its training."""
    rng = random.Random(f"{seed}/{index}")
    length = row_length(STAGES, progress, rng.random())
    rows = [row(rng, tok, length, kind_of_row(rng, progress, length)) for _ in range(max(1, tokens // length))]
    return (np.array([r[0] for r in rows], dtype=np.uint16), np.array([r[1] for r in rows], dtype=np.uint8))


def _work(queue, progress, worker, workers, seed, tokens, merges):
    tok = Tokenizer(merges)
    index = worker
    while True:
        queue.put(batch(seed, index, progress.value, tokens, tok))
        index += workers


class Batches:
    """The batches in order, made ahead of use by worker processes (workers 0: here, when asked for). The caller sets
    progress.value. With workers, the row length lags a few batches behind it."""

    def __init__(self, tok, seed, tokens, workers):
        context = multiprocessing.get_context("spawn")
        self.progress = context.Value("d", 0.0)
        self.make = lambda index: batch(seed, index, self.progress.value, tokens, tok)
        self.queues = [context.Queue(2) for _ in range(workers)]
        self.processes = [context.Process(target=_work, daemon=True, args=(q, self.progress, i, workers, seed, tokens, tok.merges)) for i, q in enumerate(self.queues)]
        for p in self.processes:
            p.start()
        self.index = 0

    def next(self):
        i = self.index
        self.index += 1
        return self.queues[i % len(self.queues)].get() if self.queues else self.make(i)

    def close(self):
        for p in self.processes:
            p.terminate()


def corpus_sample(seed, n):
    """Texts to train the tokenizer on."""
    rng = random.Random(f"{seed}/tokenizer")
    texts = []
    for _ in range(n):
        if rng.random() < 0.1:
            texts.append(world.document(rng, 400))
        else:
            texts += [text for _, text, _ in world.conversation(rng, 2000)]
    return texts
