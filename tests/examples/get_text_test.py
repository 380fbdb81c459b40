"""Checks examples/long_text/get_text.py: R data as R writes it, the split, own text, bad input."""

import bz2
import gzip
import lzma
import os
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

EXAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "examples", "long_text")
sys.path.insert(0, EXAMPLE)

import get_text  # noqa: E402
import rdata  # noqa: E402


def integer(value):
    return struct.pack(">i", value)


def char(text, encoding="utf-8", flags=0x00040009):
    encoded = text.encode(encoding)
    return integer(flags) + integer(len(encoded)) + encoded


def strings(*texts):
    return integer(16) + integer(len(texts)) + b"".join(char(t) for t in texts)


def integers(*values):
    return integer(13) + integer(len(values)) + b"".join(integer(v) for v in values)


def named_list(items):
    """An R list with a `names` attribute, from {name: serialised value}."""
    body = integer(19 | 0x200) + integer(len(items)) + b"".join(items.values())
    return body + integer(2 | 0x400) + integer(1) + char("names") + strings(*items) + integer(254)


def serialise(value, version=3):
    header = b"X\n" + integer(version) + integer(0x40201) + integer(0x30500)
    if version == 3:
        header += integer(5) + b"UTF-8"
    return header + value


def compress(data, how):
    size = struct.pack(">I", len(data))
    if how == "zlib":
        return size + zlib.compress(data)
    if how == "bzip2":
        return size + b"2" + bz2.compress(data)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
    return size + b"Z" + lzma.compress(data, lzma.FORMAT_RAW, filters=filters)


def write_package(folder, values, how="zlib"):
    """Writes Rdata.rdb and Rdata.rdx as R's lazy loading does."""
    blob, places = b"", {}
    for name, value in values.items():
        chunk = compress(serialise(value), how)
        places[name] = integers(len(blob), len(chunk))
        blob += chunk
    index = serialise(named_list({"variables": named_list(places), "references": named_list({})}))
    with open(os.path.join(folder, "Rdata.rdb"), "wb") as f:
        f.write(blob)
    with open(os.path.join(folder, "Rdata.rdx"), "wb") as f:
        f.write(gzip.compress(index))


class RData(unittest.TestCase):
    def test_reads_character_vectors_of_each_compression(self):
        for how in ("zlib", "bzip2", "xz"):
            with self.subTest(how), tempfile.TemporaryDirectory() as folder:
                write_package(folder, {"emma": strings("EMMA", "", "it cost £5"),
                                       "counts": integers(1, 2),
                                       "other": strings("x")}, how)
                self.assertEqual(rdata.character_vectors(folder),
                                 {"emma": ["EMMA", "", "it cost £5"], "other": ["x"]})

    def test_reads_version_2_and_latin1(self):
        value = integer(16) + integer(1) + char("£5", "latin-1", 0x00004009)
        self.assertEqual(rdata.Reader(serialise(value, 2)).value(), ["£5"])

    def test_refuses_what_is_cut_short_or_unknown(self):
        whole = serialise(strings("Emma", "Persuasion"))
        for size in range(len(whole)):
            with self.assertRaises(ValueError):
                rdata.Reader(whole[:size]).value()
        with self.assertRaisesRegex(ValueError, "type 6 "):
            rdata.Reader(serialise(integer(6) + integer(0))).value()
        with self.assertRaisesRegex(ValueError, "version 9"):
            rdata.Reader(b"X\n" + integer(9) + integer(0) + integer(0))

    def test_refuses_an_index_that_points_outside(self):
        with tempfile.TemporaryDirectory() as folder:
            write_package(folder, {"emma": strings("EMMA" * 100)})
            with open(os.path.join(folder, "Rdata.rdb"), "r+b") as f:
                f.truncate(30)
            with self.assertRaisesRegex(ValueError, "emma"):
                rdata.character_vectors(folder)


class Split(unittest.TestCase):
    def test_holds_out_the_last_documents(self):
        documents = [("a", "x" * 900), ("b", "x" * 60), ("c", "x" * 30), ("d", "x" * 10)]
        train, held_out = get_text.split(documents)
        self.assertEqual([name for name, _ in train], ["a"])
        self.assertEqual([name for name, _ in held_out], ["b", "c", "d"])

    def test_always_trains_on_something(self):
        train, held_out = get_text.split([("a", "x"), ("b", "x" * 20)])
        self.assertEqual((len(train), len(held_out)), (1, 1))
        self.assertEqual(train[0][0], "a")

    def test_holds_out_the_tail_of_a_single_document_at_a_line(self):
        text = "".join(f"line {i:04d}\n" for i in range(1000))
        [(_, train)], [(_, held_out)] = get_text.split([("a", text)])
        self.assertEqual(train + held_out, text)
        self.assertTrue(held_out.startswith("line 095"), held_out[:9])


class OwnText(unittest.TestCase):
    def run_program(self, out, text):
        return subprocess.run([sys.executable, "-B", os.path.join(EXAMPLE, "get_text.py"), "--out", out,
                               "--text", text], capture_output=True, text=True)

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.out = os.path.join(self.folder.name, "out")
        self.text = os.path.join(self.folder.name, "text")
        os.makedirs(os.path.join(self.text, "below"))

    def tearDown(self):
        self.folder.cleanup()

    def write(self, name, content):
        with open(os.path.join(self.text, name), "wb") as f:
            f.write(content)

    def test_takes_a_folder_and_notices_a_change(self):
        self.write("a.txt", b"a\r\n" * 40_000)
        self.write("below/b.txt", b"b\n" * 5_000)
        self.write("c.bin", b"\xff")
        for expected in (b"b\n" * 5_000, b"B\n" * 5_001):
            result = self.run_program(self.out, self.text)
            self.assertEqual(result.returncode, 0, result.stderr)
            with open(os.path.join(self.out, "train", "a.txt"), "rb") as f:
                self.assertEqual(f.read(), b"a\r\n" * 40_000)
            with open(os.path.join(self.out, "held_out", "below__b.txt"), "rb") as f:
                self.assertEqual(f.read(), expected)
            self.write("below/b.txt", b"B\n" * 5_001)

    def test_refuses_bad_text_and_leaves_nothing(self):
        self.write("short.txt", b"too short\n")
        self.write("latin1.txt", b"\xa35\n" * 50_000)
        cases = {"short.txt": "10 bytes of text", "latin1.txt": "utf-8", "absent.txt": "No such file"}
        for name, message in cases.items():
            with self.subTest(name):
                result = self.run_program(self.out, os.path.join(self.text, name))
                self.assertEqual(result.returncode, 1)
                self.assertIn(message, result.stderr)
                self.assertNotIn("Traceback", result.stderr)
                self.assertEqual(os.listdir(self.folder.name), ["text"])


if __name__ == "__main__":
    unittest.main()
