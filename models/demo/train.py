#!/usr/bin/env python3
"""Trains the demo model of weir from nothing: writes its corpus, its tokenizer, trains, quantises, exports, evaluates.

  python3 models/demo/train.py --size small --device cpu --max-seconds 5400     # two CPU cores
  python3 models/demo/train.py --size large --device cuda                       # one GPU
  python3 models/demo/train.py --steps 20 --batch-tokens 1024 --out /tmp/try    # does it run?

Needs Python 3.10+, NumPy and PyTorch 2.4+ (and g++ for torch.compile on a CPU). Writes OUT/weir-demo.gguf (also now and
then while it trains), OUT/eval.jsonl and OUT/log.txt. Judge the result with check.py.
"""
import argparse
import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import numpy as np
import torch
import torch.distributed as distributed

import data
import evaluate
import export
from model import SIZES, Config, Model, Optimizer
from tokenizer import Tokenizer, train as train_tokenizer

def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", default="build/demo", help="folder for the results")
    p.add_argument("--size", default="small", choices=SIZES)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    p.add_argument("--processes", type=int, default=0, help="data-parallel processes of one thread each, on a CPU (default: 1)")
    p.add_argument("--steps", type=int, default=9000, help="optimiser steps")
    p.add_argument("--max-seconds", type=float, default=0, help="finish by then: curriculum and learning rate follow whichever of steps and time is further on")
    p.add_argument("--batch-tokens", type=int, default=0, help="tokens of a step and process (default: 2048 on a CPU, 65536 on a GPU)")
    p.add_argument("--accumulate", type=int, default=3, help="batches added up for one step, in the later part")
    p.add_argument("--learning-rate", type=float, default=3e-3)
    p.add_argument("--resume", help="weir-demo.gguf of an earlier run to go on from")
    p.add_argument("--begin", type=float, default=0.0, help="part of curriculum and learning rate schedule to start at (with --resume)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workers", type=int, default=12, help="processes that write the corpus for a GPU")
    p.add_argument("--save-seconds", type=float, default=300, help="write the model this often")
    p.add_argument("--no-compile", action="store_true", help="run without torch.compile")
    args = p.parse_args()
    cpu = args.device == "cpu"
    args.processes = (args.processes or 1) if cpu else 1
    args.workers = 0 if cpu else args.workers
    args.batch_tokens = args.batch_tokens or (2048 if cpu else 65536)
    return args


def learning_rate_factor(progress):
    """Hold to 60 %, then down to 0 linearly."""
    return 1.0 if progress < 0.6 else max(0.0, (1 - progress) / 0.4)


def average_gradients(model):
    """Over the processes."""
    flat = torch.cat([p.grad.flatten() for p in model.all().values()])
    distributed.all_reduce(flat)
    at, n = 0, distributed.get_world_size()
    for p in model.all().values():
        p.grad.copy_(flat[at:at + p.numel()].view_as(p) / n)
        at += p.numel()


class Log:
    def __init__(self, path, quiet):
        self.start, self.file = time.time(), None if quiet else open(path, "a")

    def __call__(self, text):
        if self.file:
            line = f"[{time.time() - self.start:6.1f} s] {text}"
            print(line, flush=True)
            self.file.write(line + "\n")
            self.file.flush()


def train(rank, args, merges, rendezvous):
    if args.device == "cpu":
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
    if args.processes > 1:
        distributed.init_process_group("gloo", init_method="file://" + rendezvous, rank=rank, world_size=args.processes)
    log = Log(os.path.join(args.out, "log.txt"), rank > 0)
    tok = Tokenizer(merges)
    config = Config(**{**SIZES[args.size], "vocabulary": len(tok.tokens)})
    torch.manual_seed(args.seed)
    model = Model(config, args.device, compiled=not args.no_compile)
    if args.resume:
        model.load(export.dequantised(args.resume, config))
    optimizer = Optimizer(model)
    batches = data.Batches(tok, args.seed * 1000 + rank, args.batch_tokens, args.workers)
    path = os.path.join(args.out, "weir-demo.gguf")
    log(f"{model.parameters():,} parameters, vocabulary {config.vocabulary}, {args.processes} x {args.device}, seed {args.seed}")
    start = last_time = last_save = time.time()
    seen = last_seen = 0
    totals = torch.zeros(4, device=args.device)
    for step in range(args.steps):
        progress = torch.tensor(max(step / args.steps, (time.time() - start) / args.max_seconds if args.max_seconds else 0.0))
        if args.processes > 1:
            distributed.broadcast(progress, 0)
        progress = float(progress)
        if progress >= 1:
            break
        progress = args.begin + (1 - args.begin) * progress
        batches.progress.value = progress
        for _ in range(args.accumulate if progress > 0.4 else 1):       # gradients add up; later, rows are long and few
            ids, weights = batches.next()
            ids = torch.from_numpy(ids.astype(np.int32)).to(args.device, non_blocking=True)
            weights = torch.from_numpy(weights).to(args.device, non_blocking=True)[:, 1:].float() / data.WEIGHT_SCALE
            totals += model.step(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), weights)
            seen += weights.numel() * args.processes
        if args.processes > 1:
            average_gradients(model)
        optimizer.step(args.learning_rate * learning_rate_factor(progress) * min(1.0, (step + 1) / 50))
        if (step + 1) % 50 == 0 or step + 1 == args.steps or step in (0, 9):
            t, now = totals.tolist(), time.time()
            totals.zero_()
            log(f"step {step + 1} {100 * progress:.1f} % {seen / 1e6:.2f} M tokens, chat loss {t[0] / max(t[1], 1):.4f}, recall loss {t[2] / max(t[3], 1):.4f}, "
                f"{(seen - last_seen) / (now - last_time) / 1e3:.1f} k tokens/s")
            last_time, last_seen = now, seen
            if rank == 0 and now - last_save > args.save_seconds:
                export.write_gguf(path, config, tok, model.save())
                last_save = now
    batches.close()
    if rank == 0:
        export.write_gguf(path, config, tok, model.save())
        log(f"wrote {path}, {os.path.getsize(path):,} bytes")
    if args.processes > 1:
        distributed.destroy_process_group()


def main():
    args = arguments()
    os.makedirs(args.out, exist_ok=True)
    if args.resume:
        tok = export.tokenizer_of(args.resume)
    else:
        tok = Tokenizer(train_tokenizer(data.corpus_sample(0, 3000), SIZES[args.size]["vocabulary"]))
    evaluate.write(os.path.join(args.out, "eval.jsonl"), tok)
    if args.processes == 1:
        return train(0, args, tok.merges, None)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (args, tok.merges, os.path.join(folder, "rendezvous")), args.processes)


if __name__ == "__main__":
    main()
