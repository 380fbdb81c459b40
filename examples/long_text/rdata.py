"""Reads the character vectors of an R package's data, with nothing but the standard library.

An installed R package keeps its data sets in data/Rdata.rdb (compressed values, end to end) and
data/Rdata.rdx (where each begins). Both hold R's XDR serialisation, versions 2 and 3, described in
"R Internals", section 1.8. Only the types that text needs are read; anything else is an error.
"""

import bz2
import gzip
import lzma
import struct
import zlib

SYMBOL, PAIRLIST, CHAR, LOGICAL, INTEGER, REAL, STRINGS, LIST = 1, 2, 9, 10, 13, 14, 16, 19
NIL, REFERENCE = 254, 255
HAS_ATTRIBUTES, HAS_TAG = 0x200, 0x400


class Reader:
    def __init__(self, data):
        self.data = data
        self.offset = 0
        self.symbols = []
        if self.take(2) != b"X\n":
            raise ValueError("not R's XDR serialisation")
        version, _, _ = self.integer(), self.integer(), self.integer()
        if version == 3:
            self.take(self.integer())  # the name of the native encoding
        elif version != 2:
            raise ValueError(f"R serialisation version {version} is not known")

    def take(self, count):
        if count < 0 or count > len(self.data) - self.offset:
            raise ValueError(f"R data ends early: {count} bytes wanted at {self.offset}")
        self.offset += count
        return self.data[self.offset - count:self.offset]

    def integer(self):
        return struct.unpack(">i", self.take(4))[0]

    def value(self):
        """The next value; a list with names comes as a dict."""
        flags = self.integer()
        kind = flags & 0xFF
        if kind == NIL:
            return None
        if kind == SYMBOL:
            self.symbols.append(self.value())
            return self.symbols[-1]
        if kind == REFERENCE:
            return self.symbols[(flags >> 8) - 1]
        if kind == PAIRLIST:
            return self.pairlist(flags)
        count = self.integer()
        if kind == CHAR:
            if count == -1:  # NA
                return None
            is_latin1 = flags >> 12 & 4
            return bytes(self.take(count)).decode("latin-1" if is_latin1 else "utf-8")
        if kind in (LOGICAL, INTEGER):
            items = list(struct.unpack(f">{count}i", self.take(4 * count)))
        elif kind == REAL:
            items = list(struct.unpack(f">{count}d", self.take(8 * count)))
        elif kind in (STRINGS, LIST):
            items = [self.value() for _ in range(count)]
        else:
            raise ValueError(f"R type {kind} at byte {self.offset} is not known")
        attributes = self.value() if flags & HAS_ATTRIBUTES else {}
        names = attributes.get("names")
        return dict(zip(names, items)) if names else items

    def pairlist(self, flags):
        pairs = {}
        while flags & 0xFF == PAIRLIST:
            if flags & HAS_ATTRIBUTES:
                self.value()
            tag = self.value() if flags & HAS_TAG else None
            pairs[tag] = self.value()
            flags = self.integer()
        if flags & 0xFF != NIL:
            raise ValueError("an R pairlist does not end with nil")
        return pairs


def decompress(chunk):
    """A value of an .rdb file: its size, then a letter for bzip2 or xz, none for zlib."""
    (size,) = struct.unpack(">I", chunk[:4])
    if chunk[4:5] == b"2":
        data = bz2.decompress(chunk[5:])
    elif chunk[4:5] == b"Z":
        # R writes a raw LZMA2 stream with its own fixed filter.
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6}]
        data = lzma.decompress(chunk[5:], lzma.FORMAT_RAW, filters=filters)
    else:
        data = zlib.decompress(chunk[4:])
    if len(data) != size:
        raise ValueError(f"an R value has {len(data)} bytes, not the {size} promised")
    return data


def character_vectors(folder):
    """{name: list of lines} for each character vector of an installed package's data folder."""
    with open(f"{folder}/Rdata.rdx", "rb") as f:
        index = Reader(gzip.decompress(f.read())).value()
    with open(f"{folder}/Rdata.rdb", "rb") as f:
        values = f.read()
    found = {}
    for name, (offset, size) in index["variables"].items():
        if offset < 0 or size < 5 or offset + size > len(values):
            raise ValueError(f"{folder}/Rdata.rdx: '{name}' lies outside Rdata.rdb")
        value = Reader(decompress(values[offset:offset + size])).value()
        if isinstance(value, list) and all(isinstance(line, str) for line in value):
            found[name] = value
    return found
