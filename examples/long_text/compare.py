#!/usr/bin/env python3
"""Prints two results of `longship eval --json` side by side: perplexity by position."""

import json
import sys


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def main():
    if len(sys.argv) != 3:
        sys.exit("usage: compare.py BEFORE.json AFTER.json")
    before, after = load(sys.argv[1]), load(sys.argv[2])
    rows = [(f"{a['begin']}-{a['end'] - 1}", a["tokens"], b["perplexity"], a["perplexity"])
            for b, a in zip(before["by_position"], after["by_position"], strict=True)]
    rows.append(("all", after["tokens"], before["perplexity"], after["perplexity"]))
    print(f"{'position':>12} {'bytes':>8} {'before':>9} {'after':>9} {'change':>8}")
    for position, count, old, new in rows:
        print(f"{position:>12} {count:>8} {old:>9.3f} {new:>9.3f} {100 * (new / old - 1):>+7.1f}%")


if __name__ == "__main__":
    main()
