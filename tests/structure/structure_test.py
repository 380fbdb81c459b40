"""Checks the source tree against rules.py, and each rule against a small tree that breaks it."""

import os
import sys
import tempfile
import unittest

import rules

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


class Tree(unittest.TestCase):
    def expect_clean(self, rule):
        violations = rule(ROOT)
        self.assertFalse(violations, "\n" + "\n".join(violations))

    def test_has_sources(self):
        self.assertIn("runtime/tensor.h", rules.files(ROOT))

    def test_top_level_holds_the_folders_of_the_design_only(self):
        self.expect_clean(rules.top_level)

    def test_includes_follow_the_arrows(self):
        self.expect_clean(rules.include_directions)

    def test_sources_include_their_own_header_first(self):
        self.expect_clean(rules.own_header_first)

    def test_headers_are_included_once(self):
        self.expect_clean(rules.pragma_once)

    def test_no_file_is_too_long(self):
        self.expect_clean(rules.file_lengths)

    def test_every_test_source_is_built_and_names_its_ranks(self):
        self.expect_clean(rules.tests_are_built)

    def test_builds_without_cuda_have_all_stand_ins(self):
        self.expect_clean(rules.stand_ins)


class Rules(unittest.TestCase):
    """Each rule speaks up about exactly the file that breaks it."""

    def violations(self, rule, tree):
        with tempfile.TemporaryDirectory() as root:
            for path, text in tree.items():
                os.makedirs(os.path.dirname(os.path.join(root, path)) or root, exist_ok=True)
                with open(os.path.join(root, path), "w", encoding="utf-8") as f:
                    f.write(text)
            return rule(root)

    def test_top_level(self):
        tree = {"runtime/a.h": "", "utils/a.h": "", "notes.txt": "", "README.md": ""}
        self.assertEqual(self.violations(rules.top_level, tree),
                         ["notes.txt: not allowed at the top level",
                          "utils: not allowed at the top level"])

    def test_include_against_the_arrow(self):
        tree = {"runtime/a.h": '#include "parallel/b.h"\n', "parallel/b.h": '#include "runtime/a.h"\n'}
        self.assertEqual(self.violations(rules.include_directions, tree),
                         ['runtime/a.h:1: runtime/ may not include "parallel/b.h"'])

    def test_include_across(self):
        tree = {"optim/a.h": '\n# include "data/b.h"\n', "data/b.h": "", "launch/c.cc": '#include "data/b.h"\n'}
        self.assertEqual(self.violations(rules.include_directions, tree),
                         ['optim/a.h:2: optim/ may not include "data/b.h"'])

    def test_product_code_may_not_include_tests(self):
        tree = {"data/a.cc": '#include "tests/support/b.h"\n', "tests/support/b.h": ""}
        self.assertEqual(self.violations(rules.include_directions, tree),
                         ['data/a.cc:1: data/ may not include "tests/support/b.h"'])

    def test_include_not_from_the_root(self):
        tree = {"data/a.cc": '#include "b.h"\n', "data/b.h": ""}
        self.assertEqual(self.violations(rules.include_directions, tree),
                         ['data/a.cc:1: "b.h" is no file of the tree, seen from its root'])

    def test_generated_header_counts_as_its_proto(self):
        tree = {"runtime/a.cc": '#include "launch/config.pb.h"\n', "launch/config.proto": ""}
        self.assertEqual(self.violations(rules.include_directions, tree),
                         ['runtime/a.cc:1: runtime/ may not include "launch/config.pb.h"'])

    def test_proto_import(self):
        tree = {"runtime/a.proto": 'import "launch/b.proto";\n', "launch/b.proto": ""}
        self.assertEqual(self.violations(rules.include_directions, tree),
                         ['runtime/a.proto:1: runtime/ may not include "launch/b.proto"'])

    def test_own_header_first(self):
        tree = {"data/a.h": "", "data/a.cc": '#include <vector>\n#include "data/a.h"\n',
                "data/a_cpu.cc": '#include "data/a.h"\n', "data/main.cc": "#include <vector>\n"}
        self.assertEqual(self.violations(rules.own_header_first, tree),
                         ["data/a.cc: the first include is '#include <vector>', not \"data/a.h\""])

    def test_pragma_once(self):
        tree = {"data/a.h": "#pragma once\n", "data/b.h": "int x;\n"}
        self.assertEqual(self.violations(rules.pragma_once, tree), ["data/b.h: no #pragma once"])

    def test_file_lengths(self):
        tree = {"data/a.cc": "\n" * rules.MAX_LINES, "data/b.cc": "\n" * (rules.MAX_LINES + 1)}
        self.assertEqual(self.violations(rules.file_lengths, tree),
                         [f"data/b.cc: {rules.MAX_LINES + 1} lines, more than {rules.MAX_LINES}"])

    def test_tests_are_built(self):
        tree = {
            "tests/parallel/good_mpi_test.cc": "// ranks: 1 2\nLONGSHIP_MPI_TEST_MAIN()\n",
            "tests/parallel/own_options_mpi_test.cc":
                "// ranks: 2\nLONGSHIP_MPI_TEST_MAIN({.timeout_s = 1})\n",
            "tests/parallel/bad_mpi_test.cc": "// ranks:\n",
            "tests/equality/good_gpu2_test.cc": "LONGSHIP_MPI_TEST_MAIN()\n",
            "tests/equality/bad_gpu2_test.cc": "// ranks: 2 4\n",
            "tests/program/good_gpu2_test.cc": "",
            "tests/lost_test.cc": "",
            "tests/data/found_test.cc": "",
        }
        self.assertEqual(self.violations(rules.tests_are_built, tree),
                         ["tests/equality/bad_gpu2_test.cc: no line `LONGSHIP_MPI_TEST_MAIN()`",
                          "tests/lost_test.cc: not in tests/<folder>/, so no program contains it",
                          "tests/parallel/bad_mpi_test.cc: no line such as `// ranks: 1 2 4`",
                          "tests/parallel/bad_mpi_test.cc: no line `LONGSHIP_MPI_TEST_MAIN()`"])

    def test_stand_ins(self):
        header = "void {0}_cuda(const {0}&, StreamHandle);\n"
        tree = {
            "runtime/ops/add_cuda.h": header.format("Add"), "runtime/ops/add_cuda.cu": "",
            "runtime/ops/mul_cuda.h": "inline int blocks(int n) {\n" + header.format("Mul"),
            "runtime/ops/mul_cuda.cu": "",
            "runtime/ops/ops.cc": "Add_cuda(a, s); Mul_cuda(b, s); blocks(3);\n",
            "runtime/ops/cuda_absent.cc": "void Add_cuda(const Add&, StreamHandle) {}\n",
            "parallel/cuda/sum_cuda.h": header.format("Sum"), "parallel/cuda/sum_cuda.cu": "",
            "parallel/cuda/group.cc": "Sum_cuda(c, s);\n",
        }
        self.assertEqual(self.violations(rules.stand_ins, tree),
                         ["runtime/ops/mul_cuda.h: Mul_cuda() has no stand-in for builds without CUDA"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
