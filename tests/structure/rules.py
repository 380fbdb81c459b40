"""The structural rules of the source tree, as functions from a root folder to a list of violations."""

import os
import re
import subprocess

TOP_LEVEL = {
    "runtime", "parallel", "attention", "optim", "data", "launch", "tests", "examples",
    "CMakeLists.txt", "README.md", ".ci", ".clang-format", ".gitignore", ".gitattributes",
}

# A folder may include itself and these.
MAY_INCLUDE = {
    "runtime": set(),
    "parallel": {"runtime"},
    "attention": {"parallel", "runtime"},
    "optim": {"parallel", "runtime"},
    "data": {"parallel", "runtime"},
    "launch": {"attention", "optim", "data", "parallel", "runtime"},
}

CPP = (".h", ".cc", ".cu", ".cuh", ".proto")
MAX_LINES = 450
COUNTED = CPP + (".py", ".sh", ".cmake", ".md", "CMakeLists.txt")

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"|^\s*import\s+(?:public\s+)?"([^"]+)"\s*;')


def files(root):
    """Paths of the tree's files relative to root: those that git does not ignore, where git is."""
    try:
        out = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", root, "ls-files", "-z", "--cached", "--others",
             "--exclude-standard"], check=True, capture_output=True).stdout
        names = [os.fsdecode(n) for n in out.split(b"\0") if n]
        return sorted(n for n in names if os.path.isfile(os.path.join(root, n)))
    except (OSError, subprocess.CalledProcessError):
        found = []
        for folder, folders, names in os.walk(root):
            relative = os.path.relpath(folder, root)
            if relative == ".":
                folders[:] = [f for f in folders if f != ".git" and not f.startswith("build")]
            folders[:] = [f for f in folders if f != "__pycache__"]
            found += [os.path.normpath(os.path.join(relative, n)) for n in names]
        return sorted(found)


def lines_of(root, path):
    with open(os.path.join(root, path), encoding="utf-8") as f:
        return f.read().splitlines()


def includes_of(root, path):
    """(line number, included path) for every quoted include or proto import."""
    found = []
    for number, line in enumerate(lines_of(root, path), 1):
        match = INCLUDE.match(line)
        if match:
            found.append((number, match.group(1) or match.group(2)))
    return found


def top_level(root):
    return [f"{entry}: not allowed at the top level"
            for entry in sorted({path.split("/")[0] for path in files(root)} - TOP_LEVEL)]


def include_directions(root):
    """Quoted includes are paths from the root, and point only along the arrows of MAY_INCLUDE."""
    violations = []
    present = set(files(root))
    for path in present:
        if not path.endswith(CPP):
            continue
        folder = path.split("/")[0]
        for number, included in includes_of(root, path):
            where = f"{path}:{number}"
            source = re.sub(r"\.pb\.h$", ".proto", included)
            if source.startswith("google/protobuf/"):
                continue
            if source not in present:
                violations.append(f'{where}: "{included}" is no file of the tree, seen from its root')
                continue
            target = source.split("/")[0]
            if folder in MAY_INCLUDE and target != folder and target not in MAY_INCLUDE[folder]:
                violations.append(f'{where}: {folder}/ may not include "{included}"')
    return sorted(violations)


def own_header_first(root):
    """x.cc includes x.h before anything else, so every such header compiles on its own."""
    violations = []
    present = set(files(root))
    for path in present:
        stem, extension = os.path.splitext(path)
        if extension not in (".cc", ".cu"):
            continue
        own = re.sub(r"_(cpu|cuda)$", "", stem) + ".h"
        own = stem + ".h" if stem + ".h" in present else own
        if own not in present:
            continue
        first = next((line for line in lines_of(root, path) if line.startswith("#include")), "")
        if first != f'#include "{own}"':
            violations.append(f'{path}: the first include is {first!r}, not "{own}"')
    return sorted(violations)


def pragma_once(root):
    return [f"{path}: no #pragma once" for path in files(root)
            if path.endswith((".h", ".cuh")) and "#pragma once" not in lines_of(root, path)]


def file_lengths(root):
    violations = []
    for path in files(root):
        if path.endswith(COUNTED):
            count = len(lines_of(root, path))
            if count > MAX_LINES:
                violations.append(f"{path}: {count} lines, more than {MAX_LINES}")
    return violations


def tests_are_built(root):
    """Every test source lies where tests/CMakeLists.txt looks, and multi-rank tests name ranks (those of
    GPUs run on two unless they do)."""
    violations = []
    for path in files(root):
        on_gpus = path.endswith("_gpu2_test.cc") and not path.startswith("tests/program/")
        if path.endswith("_mpi_test.cc") or on_gpus:
            lines = lines_of(root, path)
            if not on_gpus and not any(re.match(r"// ranks:( [1-9][0-9]*)+$", line) for line in lines):
                violations.append(f"{path}: no line such as `// ranks: 1 2 4`")
            if not any(line.startswith("LONGSHIP_MPI_TEST_MAIN(") for line in lines):
                violations.append(f"{path}: no line `LONGSHIP_MPI_TEST_MAIN()`")
            if not path.startswith("tests/"):
                violations.append(f"{path}: tests belong into tests/")
        elif path.endswith("_test.cc"):
            parts = path.split("/")
            # tests/program/ runs the built program instead of including a folder.
            known = parts[1] in MAY_INCLUDE or parts[1] == "program"
            if parts[0] != "tests" or len(parts) < 3 or not known:
                violations.append(f"{path}: not in tests/<folder>/, so no program contains it")
    return violations


def stand_ins(root):
    """What a .cu file defines for sources that every build has is defined by a *_absent.cc too, which
    takes its place in builds without CUDA."""
    present = set(files(root))
    text = {path: "\n".join(lines_of(root, path)) for path in present if path.endswith(CPP)}
    absent = "\n".join(text[path] for path in text if path.endswith("_absent.cc"))
    always_built = [text[path] for path in text if path.endswith(".cc") and "/cuda/" not in path
                    and not path.startswith("tests/") and not path.endswith("_absent.cc")]
    violations = []
    for path in present:
        header = re.sub(r"\.cu$", ".h", path)
        if not path.endswith(".cu") or header not in present:
            continue
        declared = re.findall(r"^(?!inline|constexpr|template|struct|class|using|//)\w[^\n({;=]*\b(\w+)\(",
                              text[header], re.MULTILINE)
        for name in declared:
            call = re.compile(rf"\b{name}\(")
            if any(call.search(source) for source in always_built) and not call.search(absent):
                violations.append(f"{header}: {name}() has no stand-in for builds without CUDA")
    return sorted(violations)
