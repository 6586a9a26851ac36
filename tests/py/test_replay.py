#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`weir replay`: what its JSON and its page say, that it is deterministic, how it refuses; and a live server's recording
played again."""

import json
import os
import random
import re
import signal
import subprocess
import tempfile
import threading
import unittest
import urllib.request

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
WEIR = os.environ.get("WEIR_BIN", os.path.join(ROOT, "weir"))
SMALL = ["--synthetic", "--requests", "400", "--rate", "12", "--mean-turns", "2", "--shared-prefix", "64"]


def weir(*args, ok=True):
    out = subprocess.run([WEIR, "replay", *args], capture_output=True, text=True, timeout=120)
    if ok and out.returncode:
        raise AssertionError(out.stderr)
    return out


def report(*args):
    return json.loads(weir(*args, "--json", "-").stdout)


@unittest.skipUnless(os.access(WEIR, os.X_OK), "weir is not built")
class Report(unittest.TestCase):
    def test_figures_add_up(self):
        r = report(*SMALL, "--policy", "weir,vllm,contiguous", "--rate-scale", "1,3", "--price", "2.5")
        self.assertEqual(len(r["runs"]), 6)
        self.assertEqual([x["policy"] for x in r["runs"]], 2 * ["weir", "vllm", "contiguous"])
        for x in r["runs"]:
            self.assertEqual(x["finished"] + x["refused"] + x["failed"] + x["cancelled"], 400)
            self.assertLessEqual(x["good"], x["finished"])
            self.assertAlmostEqual(x["good_share"], x["good"] / 400)
            self.assertLessEqual(x["goodput_per_s"], x["offered_per_s"])
            for name in ("queue_s", "ttft_s", "mean_itl_s", "e2e_s", "gap_s"):
                q = x[name]
                self.assertTrue(0 <= q["p50"] <= q["p90"] <= q["p95"] <= q["p99"], name)
            self.assertLessEqual(x["queue_s"]["p50"], x["ttft_s"]["p50"])
            self.assertLessEqual(x["ttft_s"]["p50"], x["e2e_s"]["p50"])
            for name in ("bandwidth_utilisation", "compute_utilisation", "busy_share", "kv_used_share", "kv_waste_share"):
                self.assertTrue(0 < x[name] <= 1, name)
            self.assertAlmostEqual(x["cost"], 2.5 * x["simulated_s"] / 3600, places=5)
            self.assertAlmostEqual(x["cost_per_million_tokens"], 1e6 * x["cost"] / x["output_tokens"], places=4)
            s = x["series"]
            total = {k: sum(v) * s["span_s"] for k, v in s.items() if k != "span_s"}
            self.assertAlmostEqual(total["output_tokens_per_s"], x["output_tokens"], delta=1)
            self.assertAlmostEqual(total["finished_per_s"], x["finished"], delta=0.1)
            self.assertAlmostEqual(total["arrived_per_s"], 400, delta=0.1)
            self.assertAlmostEqual(total["bandwidth_utilisation"] / x["simulated_s"], x["bandwidth_utilisation"],
                                   delta=0.01)
            for curve in x["distribution"].values():
                self.assertEqual(curve, sorted(curve))
        by = {(x["policy"], x["rate_scale"]): x for x in r["runs"]}
        self.assertGreater(by["vllm", 1]["prefix_hit_share"], 0.1)
        self.assertEqual(by["contiguous", 1]["prefix_hit_share"], 0)
        self.assertGreater(by["contiguous", 1]["kv_waste_share"], 0.3)  # regions for the longest output
        self.assertLess(by["weir", 1]["kv_waste_share"], 0.05)

    def test_same_seed_same_report(self):
        args = [*SMALL, "--noise", "0.2", "--burstiness", "3", "--seed", "5"]
        self.assertEqual(weir(*args, "--json", "-").stdout, weir(*args, "--json", "-").stdout)
        self.assertNotEqual(report(*args)["runs"][0]["ttft_s"], report(*args[:-1], "6")["runs"][0]["ttft_s"])

    def test_outputs_never_show_before_they_end(self):
        """Two traces that differ only in lengths that were not reached: the same schedule up to there."""
        def trace(long):
            rows = "".join(f"{i * 0.01},100,{long if i == 60 else 20 + i}\n" for i in range(80))
            path = os.path.join(self.dir.name, f"{long}.csv")
            with open(path, "w", encoding="utf-8") as f:
                f.write("arrival_s,prompt_tokens,output_tokens\n" + rows)
            return path
        self.dir = tempfile.TemporaryDirectory()
        with self.dir:
            a, b = (report(trace(n), "--policy", "weir")["runs"][0] for n in (3000, 6000))
            until = int(1.5 / a["series"]["span_s"])  # all others have ended, the long one runs
            for name in ("running", "queued", "kv_used_share"):
                self.assertEqual(a["series"][name][:until], b["series"][name][:until], name)

    def test_page_is_self_contained(self):
        with tempfile.TemporaryDirectory() as d:
            path = os.path.join(d, "r.html")
            weir(*SMALL, "--html", path)
            with open(path, encoding="utf-8") as f:
                page = f.read()
        for mark in ("/*REPORT*/null", "/*STYLE*/", "/*SCRIPT*/"):
            self.assertNotIn(mark, page)
        self.assertIsNone(re.search(r"(src|href)=|@import|url\(|fetch\(|https?://(?!www\.w3\.org/2000/svg)", page))
        data = json.loads(re.search(r"^const R = (\{.*\});$", page, re.M).group(1))
        self.assertEqual([x["policy"] for x in data["runs"]], ["weir", "vllm"])

    def test_different_devices_at_once(self):
        r = report(*SMALL, "--device", "2xh100-sxm,l40s", "--price", "h100-sxm=2", "--price", "l40s=1")
        self.assertEqual([x["device"] for x in r["replicas"]], ["h100-sxm", "h100-sxm", "l40s"])
        self.assertEqual([x["price_per_hour"] for x in r["replicas"]], [2, 2, 1])
        self.assertNotEqual(r["replicas"][0]["kv_chunks"], r["replicas"][2]["kv_chunks"])

    def test_policies_with_settings(self):
        r = report(*SMALL, "--policy", "vllm,vllm:max-step-tokens=512:max-running=8")
        self.assertEqual([(x["max_step_tokens"], x["max_running"]) for x in r["runs"]], [(8192, 256), (512, 8)])
        self.assertLessEqual(max(r["runs"][1]["series"]["running"]), 8)

    def test_settings_of_the_scheduler(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        pressed = ["--synthetic", "--requests", "1500", "--rate", "6", "--mean-turns", "4", "--gap-median", "3",
                   "--output-sigma", "2", "--memory-fraction", "0.27", "--slo", "ttft=30,itl=0.5", "--policy", "weir"]
        usual = report(*pressed)["runs"][0]
        none = report(*pressed, "--speculative-limit", "0")["runs"][0]  # as without the node
        nodes = os.path.join(self.dir.name, "no-reserve.json")
        with open(nodes, "w", encoding="utf-8") as f:
            json.dump({"name": "no-reserve", "nodes": [n for n in usual["nodes"] if n != "reserve"]}, f)
        self.assertEqual(none["ttft_s"], report(*pressed[:-1], nodes)["runs"][0]["ttft_s"])
        self.assertNotEqual(none["ttft_s"], usual["ttft_s"])
        lru = report(*pressed, "--retention", "lru")["runs"][0]
        self.assertNotEqual(usual["prefix_hit_share"], lru["prefix_hit_share"])
        fcfs = [*pressed[:-1], "fcfs"]  # it looks less far ahead
        self.assertIn(report(*fcfs)["runs"][0]["preempted_most"], (2, 3, 4))
        self.assertEqual(report(*fcfs, "--max-preemptions", "1")["runs"][0]["preempted_most"], 1)

    def test_wrong_input_explains_itself(self):
        for args, says in ((["--synthetic", "x.csv"], "takes no trace"),
                           ([], "name one trace"),
                           (["/nonexistent"], "No such file"),
                           ([*SMALL, "--slo", "ttft=x"], "--slo is like"),
                           ([*SMALL, "--rate-scale", "1,-2"], "positive numbers, not '-2'"),
                           ([*SMALL, "--policy", "vlm"], "no policy is called"),
                           ([*SMALL, "--policy", "vllm:speed=2"], "is none of max-step-tokens"),
                           ([*SMALL, "--policy", "weir,,vllm"], "an empty item"),
                           ([*SMALL, "--device", "h1000"], "h100"),
                           ([*SMALL, "--device", "100xh100-sxm"], "h100"),
                           ([*SMALL, "--price", "b200=3"], "not among the devices"),
                           ([*SMALL, "--price", "cheap"], "neither a price"),
                           ([*SMALL, "--pin-limit", "2"], "pin-limit"),
                           ([*SMALL, "--speculative-limit", "-1"], "speculative-limit"),
                           ([*SMALL, "--max-preemptions", "0"], "max-preemptions"),
                           ([*SMALL, "--retention", "fifo"], "must be value or lru"),
                           ([*SMALL, "--model", "llama-3.1-70b"], "leaves no room for KV"),
                           ([*SMALL, "--html", "/nonexistent/x.html"], "No such file")):
            out = weir(*args, ok=False)
            self.assertIn(out.returncode, (1, 2), args)
            self.assertIn(says, out.stderr, args)
            self.assertEqual(out.stdout, "", args)


@unittest.skipUnless(os.access(WEIR, os.X_OK), "weir is not built")
class Recording(unittest.TestCase):
    """A server under load, then its recording."""

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory()
        cls.path = os.path.join(cls.dir.name, "flight.rec")
        server = subprocess.Popen([WEIR, "serve", "--port", "0", "--record", cls.path, "--max-running", "6",
                                   "--max-queued", "30", "--pin-limit", "0", "--kv-chunks", "80", "--ctx", "1024", "--api-key", "sk-secret-7",
                                   "--log-level", "off"], stdout=subprocess.PIPE, text=True)
        url = re.search(r"http://\S+", server.stdout.readline()).group(0)
        rng = random.Random(3)
        threads = []
        for i in range(60):
            body = {"prompt": "Once upon a time " + "there was a girl " * rng.randint(0, 60), "seed": i,
                    "max_tokens": rng.randint(1, 120), "ignore_eos": rng.random() < 0.6, "stream": rng.random() < 0.3}
            threads.append(threading.Thread(target=cls.ask, args=(url, body, rng.random() < 0.15)))
            threads[-1].start()
            if i % 9 == 0:
                threads[-1].join()
        for t in threads:
            t.join()
        server.send_signal(signal.SIGTERM)
        if server.wait(30):
            raise AssertionError("the server failed")
        server.stdout.close()

    @classmethod
    def tearDownClass(cls):
        cls.dir.cleanup()

    @staticmethod
    def ask(url, body, leave):
        request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json", "Authorization": "Bearer sk-secret-7"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                answer.read(1 if leave else None)  # some clients go away
        except urllib.error.HTTPError as e:
            e.close()

    def test_decisions_are_equal(self):
        out = weir(self.path)
        self.assertIn("All decisions are equal to the live ones", out.stdout)
        r = report(self.path)
        self.assertTrue(r["recording"]["equal"])
        self.assertGreater(r["recording"]["plans"], 50)
        self.assertEqual(len(r["runs"]), 1)
        self.assertTrue(r["runs"][0]["live"])
        self.assertGreater(r["runs"][0]["finished"], 30)
        self.assertEqual(r["requests"], 60)

    def test_what_would_have_been(self):
        r = report(self.path, "--policy", "weir,vllm", "--rate-scale", "1,2")
        self.assertEqual([x["policy"] for x in r["runs"]], ["live", "weir", "vllm", "weir", "vllm"])
        r = report(self.path, "--model", "llama-3.2-1b", "--device", "l4", "--policy", "weir")
        self.assertEqual(r["replicas"][0]["device"], "l4")
        for x in r["runs"][1:]:
            self.assertEqual(x["finished"] + x["refused"], 60)

    def test_what_other_settings_would_have_done(self):
        for setting in (["--retention", "lru"], ["--speculative-limit", "0"], ["--pin-limit", "0.5"],
                        ["--max-preemptions", "1"]):
            r = report(self.path, *setting, "--policy", "weir")
            self.assertEqual([x["policy"] for x in r["runs"]], ["live", "weir"], setting)
            self.assertTrue(r["recording"]["equal"])
        r = report(self.path, "--retention", "lru")  # alone it asks what would have been too
        self.assertEqual([x["policy"] for x in r["runs"]], ["live", "weir", "vllm"])
        self.assertIn("must be value or lru", weir(self.path, "--retention", "fifo", ok=False).stderr)

    def test_nothing_private_is_in_it(self):
        with open(self.path, "rb") as f:
            data = f.read()
        for text in (b"upon", b"girl", b"sk-secret"):
            self.assertNotIn(text, data)
        import hashlib
        self.assertNotIn(hashlib.sha256(b"sk-secret-7").digest()[:8], data)
        self.assertEqual(os.stat(self.path).st_mode & 0o777, 0o600)

    def test_a_torn_tail_is_left_out(self):
        with open(self.path, "rb") as f:
            data = f.read()
        path = os.path.join(self.dir.name, "torn.rec")
        with open(path, "wb") as f:
            f.write(data[:-len(data) // 3])
        r = report(path)
        self.assertTrue(r["recording"]["equal"])
        self.assertGreater(r["recording"]["torn_bytes"], 0)

    def test_other_files_are_refused(self):
        path = os.path.join(self.dir.name, "bad.rec")
        for data in (b"weirrec1", b"weirrec1" + bytes(100), b"weirrec1\x02\0\0\0\0\0\0\0{}"):
            with open(path, "wb") as f:
                f.write(data)
            out = weir(path, ok=False)
            self.assertEqual(out.returncode, 1)
            self.assertIn("bad.rec", out.stderr)


if __name__ == "__main__":
    unittest.main()
