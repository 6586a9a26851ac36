#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/benchmarks.md that come from `weir replay`, as Markdown.

    bench/replay_tables.py TRACES policies|ablation|traffic|mixed [--only TEXT]

TRACES: the folder with AzureLLMInferenceTrace_conv.csv and conversation_trace.jsonl. A minute or two for each table and
trace on one core; --only does those whose name holds TEXT. The saturating rate is the one at which as many requests arrive as `vllm` completes under permanent
overload (all requests at 100 times their rate)."""

import argparse
import json
import os
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
WEIR = os.environ.get("WEIR_BIN", os.path.join(ROOT, "weir"))
AZURE, MOONCAKE = "AzureLLMInferenceTrace_conv.csv", "conversation_trace.jsonl"
SETUPS = [  # what it is called, trace, options
    ("Azure, Llama-3.1-8B on one H100", AZURE, ["--slo", "ttft=2,itl=0.1"]),
    ("Mooncake, Llama-3.1-8B on one H100", MOONCAKE, ["--slo", "ttft=5,itl=0.1"]),
    ("Azure, Llama-3.1-70B on four H100", AZURE, ["--slo", "ttft=2,itl=0.1", "--model", "llama-3.1-70b", "--tp", "4"]),
    ("Mooncake, Llama-3.1-70B on four H100", MOONCAKE,
     ["--slo", "ttft=5,itl=0.1", "--model", "llama-3.1-70b", "--tp", "4"]),
]
LOADS = [0.7, 1, 1.25, 1.5]
VLLM = ["vllm", "vllm:max-step-tokens=2048"]
OTHERS = ["compute-first", "contiguous", "static"]
TRAFFIC = [  # shape of synthetic traffic on one H100 with Llama-3.1-8B
    ("short chat", "--prompt-median 200 --prompt-sigma 0.8 --output-median 150"),
    ("bursty", "--prompt-median 600 --output-median 200 --burstiness 4"),
    ("long context", "--prompt-median 12000 --prompt-sigma 0.7 --output-median 300 --slo ttft=8,itl=0.1"),
    ("long answers", "--prompt-median 150 --output-median 900 --output-sigma 0.7"),
    ("many keys", "--prompt-median 500 --output-median 200 --keys 20 --burstiness 2"),
]


# Turns follow each other, so that a slow server gets fewer of them: rates of conversations, given.
CONVERSATIONS = ("conversations", "--prompt-median 200 --prompt-sigma 0.8 --output-median 150 --mean-turns 4 "
                                  "--gap-median 10 --shared-prefix 500", [2.5, 3.5, 4.5, 5.5])


def replay(args, policies, rates):
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        subprocess.run([WEIR, "replay", *args, "--policy", ",".join(policies), "--rate-scale",
                        ",".join(f"{r:.4g}" for r in rates), "--json", out.name], check=True, stdout=subprocess.DEVNULL)
        return json.load(out)["runs"]


def saturating_rate(args):
    """Of the arrivals as they are recorded."""
    run = replay(args, ["vllm"], [100])[0]
    return run["requests_per_s"] / (run["offered_per_s"] / 100)


def by_label(runs):
    labels = list(dict.fromkeys(r["policy"] for r in runs))
    rates = list(dict.fromkeys(r["rate_scale"] for r in runs))
    return labels, rates, {(r["policy"], r["rate_scale"]): r for r in runs}


def cell(run, best):
    text = f"{run['goodput_per_s']:.4g}" if run["goodput_per_s"] >= 0.001 else "<0.001"
    return f"**{text}**" if run["goodput_per_s"] >= best else text


def print_goodput(runs, loads, unit=None):
    labels, rates, at = by_label(runs)
    print(f"| {unit or 'load (offered/s)'} | " + " | ".join(f"`{x.replace('.json', '')}`" for x in labels) + " |")
    print("|---" * (len(labels) + 1) + "|")
    for load, rate in zip(loads, rates):
        best = max(at[x, rate]["goodput_per_s"] for x in labels)
        head = f"{load:g}" if unit else f"{load:g}x ({at[labels[0], rate]['offered_per_s']:.3g})"
        print(f"| {head} | " + " | ".join(cell(at[x, rate], best) for x in labels) + " |")


def print_weir(runs):
    mine = [r for r in runs if r["policy"] == "weir"]
    print("\n`weir`: recomputed tokens at most "
          f"{100 * max(r['recomputed_share'] for r in mine):.2f} %, KV waste at most "
          f"{100 * max(r['kv_waste_share'] for r in mine):.2f} %, p99 of a request's mean inter-token time at most "
          f"{1e3 * max(r['mean_itl_s']['p99'] for r in mine):.0f} ms.\n")


def best_of(args, rate, tries):
    """For this traffic, at its saturating rate."""
    runs = replay(args, tries, [rate])
    return tries[max(range(len(tries)), key=lambda i: runs[i]["goodput_per_s"])]


def policies(traces, only):
    with tempfile.TemporaryDirectory() as folder:
        # vLLM's scheduler with weir's refusals: who cannot get a first token in time is refused.
        refuses = os.path.join(folder, "vllm+expire.json")
        with open(refuses, "w", encoding="utf-8") as f:
            json.dump({"name": "vllm+expire", "nodes": ["expire", "batch", "admit-waiting"]}, f)
        for setup in SETUPS:
            if only in setup[0]:
                policies_of(traces, refuses, *setup)


def policies_of(traces, refuses, name, trace, options):
    args = [os.path.join(traces, trace), *options]
    rate = saturating_rate(args)
    bounded = best_of(args, rate, [f"{v}:max-queued={n}" for v in VLLM for n in (4, 8, 16, 32, 64)])
    refusing = best_of(args, rate, [refuses, refuses + ":max-step-tokens=2048"])
    runs = replay(args, ["weir", *VLLM, bounded, refusing, *OTHERS], [x * rate for x in LOADS])
    print(f"### {name}\n\nSaturating rate: {rate:.3g}x of the recorded arrivals. `{' '.join(options)}`\n")
    print_goodput(runs, LOADS)
    print_weir(runs)
    sys.stdout.flush()


def ablation_files(folder, nodes):
    """weir without each of its nodes, and with what stands for it where one is needed."""
    stand_in = {"admit-bandwidth": ["admit"]}
    needed = {"batch"}
    of_no_use_without = {"admit-bandwidth": ["reserve"]}
    for node in nodes:
        if node in needed:
            continue
        useless = [n for n in of_no_use_without.get(node, []) if n in nodes]
        rest = [m for n in nodes if n not in useless for m in (stand_in.get(n, []) if n == node else [n])]
        path = os.path.join(folder, f"without {' and '.join([node, *useless])}.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump({"name": f"no-{node}"[:31], "nodes": rest}, f)
        check = subprocess.run([WEIR, "replay", "--synthetic", "--requests", "10", "--policy", path],
                               capture_output=True, text=True, check=False)
        if check.returncode:
            print(f"`{node}` cannot be left out: {check.stderr.strip()}\n")
        else:
            yield path


def ablation(traces, only):
    setups = [s for s in SETUPS[:2] if only in s[0]]
    nodes = replay(["--synthetic", "--requests", "10"], ["weir"], [1])[0]["nodes"]
    with tempfile.TemporaryDirectory() as folder:
        files = list(ablation_files(folder, nodes))
        print("| | " + " | ".join(f"{s[0].split(',')[0]} {x:g}x" for s in setups for x in LOADS) + " |")
        print("|---" * (1 + len(setups) * len(LOADS)) + "|")
        columns = []
        for _, trace, options in setups:
            args = [os.path.join(traces, trace), *options]
            rate = saturating_rate(args)
            labels, rates, at = by_label(replay(args, ["weir", *files], [x * rate for x in LOADS]))
            columns += [[at[x, r] for x in labels] for r in rates]
        for i, label in enumerate(labels):
            whole = [c[0]["goodput_per_s"] for c in columns]
            cells = [f"{whole[k]:.3g}" if i == 0 else f"{100 * (c[i]['goodput_per_s'] / whole[k] - 1):+.1f} %"
                     for k, c in enumerate(columns)]
            print(f"| {label.removesuffix('.json')} | " + " | ".join(cells) + " |")


def padding_devices(folder):
    """The H100's profile, as though mixed lengths lost some of the time of a padded batch: made up."""
    with open(os.path.join(ROOT, "profiles", "devices", "h100-sxm.json"), encoding="utf-8") as f:
        profile = json.load(f)
    del profile["aliases"]
    for waste in (0, 0.1, 0.25, 0.5, 1):
        profile["attainable"]["mixed_length_waste"] = waste
        path = os.path.join(folder, f"waste-{waste}.json")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(profile, f)
        yield waste, path


def mixed(traces, only):
    nodes = replay(["--synthetic", "--requests", "10"], ["weir"], [1])[0]["nodes"]
    with tempfile.TemporaryDirectory() as folder:
        without = os.path.join(folder, "without homogeneous.json")
        with open(without, "w", encoding="utf-8") as f:
            json.dump({"name": "no-homogeneous", "nodes": [n for n in nodes if n != "homogeneous"]}, f)
        devices = list(padding_devices(folder))
        for name, trace, options in SETUPS[:2]:
            if only in name:
                mixed_of(name, [os.path.join(traces, trace), *options], devices, without)


def mixed_of(name, args, devices, without):
    rate = saturating_rate(args)
    print(f"### {name}\n\n| waste | load | `weir` | without `homogeneous` | `vllm:max-step-tokens=2048` | grouped steps |")
    print("|---" * 6 + "|")
    for waste, path in devices:
        labels, rates, at = by_label(replay([*args, "--device", path], ["weir", without, VLLM[1]],
                                            [x * rate for x in LOADS[:3]]))
        for load, r in zip(LOADS, rates):
            runs = [at[x, r] for x in labels]
            best = max(x["goodput_per_s"] for x in runs)
            grouped = 100 * runs[0]["grouped_steps"] / runs[0]["steps"]
            print(f"| {waste:g} | {load:g}x | " + " | ".join(cell(x, best) for x in runs) + f" | {grouped:.0f} % |")
    print()
    sys.stdout.flush()


def conversations():
    name, options, rates = CONVERSATIONS
    runs = []
    for rate in rates:
        more = replay(["--synthetic", "--requests", "20000", *options.split(), "--rate", str(rate)],
                      ["weir", *VLLM, *OTHERS[:2]], [1])
        runs += [{**r, "rate_scale": rate} for r in more]
    print(f"### {name}\n\n`--synthetic --requests 20000 {options}`; conversations that begin a second, and good "
          "turns a second.\n")
    print_goodput(runs, rates, "conversations/s")
    print_weir(runs)


def traffic(_, only):
    if only in CONVERSATIONS[0]:
        conversations()
    for name, options in TRAFFIC:
        if only not in name:
            continue
        args = ["--synthetic", "--requests", "8000", *options.split()]
        rate = saturating_rate([*args, "--rate", "1"])
        runs = []
        for load in LOADS:  # the rate itself: gaps between the turns of a conversation do not scale
            more = replay([*args, "--rate", f"{load * rate:.4g}"], ["weir", *VLLM, *OTHERS[:2]], [1])
            runs += [{**r, "rate_scale": load} for r in more]
        print(f"### {name}\n\n`--synthetic --requests 8000 {options} --rate {rate:.3g}` is the saturating rate.\n")
        print_goodput(runs, LOADS)
        print_weir(runs)
        sys.stdout.flush()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("traces")
    p.add_argument("table", choices=["policies", "ablation", "traffic", "mixed"])
    p.add_argument("--only", default="")
    a = p.parse_args()
    {"policies": policies, "ablation": ablation, "traffic": traffic, "mixed": mixed}[a.table](a.traces, a.only)


if __name__ == "__main__":
    main()
