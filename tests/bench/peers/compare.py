"""Joins cases of `longship bench --json` with what the scripts beside this one printed in the same
run on the same machine, and writes the cases with the fastest peer of the same work added:

    longship bench attention --json ours.jsonl; python3 attention.py | tee peers.txt
    python3 compare.py --peers peers.txt --output results.jsonl ours.jsonl

Fields added to a case: peer, peer_ms, ratio (peer_ms / ms, above 1 where Longship is faster).
"""

import argparse
import json
import re

LENGTH_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


def length(text):
    number, unit = re.fullmatch(r"(\d+)([KM]?)", text).groups()
    return int(number) * LENGTH_UNITS[unit]


def peer_work(line):
    """(work, peer's name, ms) of a line that a peer printed, or None."""
    found = re.match(r"P (\d+) S +(\d+) H (\d+/\d+) D +(\d+) (.+?) +([\d.]+) ms", line)
    if found:
        ranks, tokens, heads, size, name, ms = found.groups()
        return ("attention", int(ranks), f"{heads}x{size}", int(tokens)), name, float(ms)
    found = re.match(r"S +(\d+) H (\d+/\d+) D +(\d+) (\w+) +fwd +([\d.]+) ms.* bwd +([\d.]+) ms", line)
    if found:
        tokens, heads, size, name, forward_ms, backward_ms = found.groups()
        work = ("attention", 1, f"{heads}x{size}", int(tokens))
        return work, f"PyTorch {name}", float(forward_ms) + float(backward_ms)
    found = re.match(r"(\w+) S (\d+) +([\d.]+) ms +\d+ tok/s .*GiB ?(\w*)", line)
    if found:
        shape, tokens, ms, mode = found.groups()
        name = "Transformers " + ("compiled" if mode == "compile" else "eager")
        return ("step", 1, shape, int(tokens)), name, float(ms)
    return None


def case_work(name):
    """The work of one of our cases in the same words, or None where no peer does it."""
    found = re.match(r"attention (\d+)gpu causal (\d+/\d+x\d+) S=(\w+)", name)
    if found:
        ranks, heads, tokens = found.groups()
        return "attention", int(ranks), heads, length(tokens)
    found = re.match(r"step (?:llama_)?(\w+) (\d+)gpu S=(\w+)", name)
    if found:
        shape, ranks, tokens = found.groups()
        return "step", int(ranks), shape, length(tokens)
    return None


def fastest_peers(lines):
    fastest = {}
    for line in lines:
        row = peer_work(line)
        if row is None:
            continue
        work, name, ms = row
        if work not in fastest or ms < fastest[work][1]:
            fastest[work] = (name, ms)
    return fastest


def joined(cases, fastest):
    for case in cases:
        peer = fastest.get(case_work(case["case"]))
        if peer is not None:
            case = {**case, "peer": peer[0], "peer_ms": peer[1], "ratio": peer[1] / case["ms"]}
        yield case


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", nargs="+", required=True, help="what the peers printed")
    parser.add_argument("--output", required=True)
    parser.add_argument("cases", nargs="+", help="files of longship bench --json")
    arguments = parser.parse_args()
    lines = [line for path in arguments.peers for line in open(path, encoding="utf-8")]
    cases = [json.loads(line) for path in arguments.cases for line in open(path, encoding="utf-8")]
    with open(arguments.output, "w", encoding="utf-8") as output:
        for case in joined(cases, fastest_peers(lines)):
            output.write(json.dumps(case) + "\n")
            ratio = f"{case['ratio']:.2f} x {case['peer']}" if "ratio" in case else "no peer"
            print(f"{case['case']:<60} {case['ms']:10.2f} ms  {ratio}")


if __name__ == "__main__":
    main()
