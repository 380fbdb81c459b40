"""The join of our benchmark cases with the peers' lines."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers"))

import compare

ULYSSES = "P 2 S    65536 H 32/8 D 128 ulysses cudnn               118.00 ms    523 TF/GPU\n"
RING = "P 2 S    65536 H 32/8 D 128 torch cp allgather cudnn    126.00 ms    490 TF/GPU\n"
ONE_GPU = "S   32768 H 32/8 D 128 cudnn  fwd    12.20 ms   594 TF  bwd    30.10 ms   527 TF\n"
STEP = "1b S 32768    1337.0 ms      24500 tok/s  MFU  34.3%  peak   16.0 GiB compile\n"


class Compare(unittest.TestCase):
    def test_takes_the_fastest_peer_of_the_same_work(self):
        fastest = compare.fastest_peers([RING, ULYSSES, "a line of another kind\n"])
        case = {"case": "attention 2gpu causal 32/8x128 S=64K ring", "ms": 100.0}
        joined = list(compare.joined([case], fastest))[0]
        self.assertEqual((joined["peer"], joined["peer_ms"]), ("ulysses cudnn", 118.0))
        self.assertAlmostEqual(joined["ratio"], 1.18)

    def test_one_gpu_times_are_forward_and_backward(self):
        fastest = compare.fastest_peers([ONE_GPU])
        self.assertAlmostEqual(fastest["attention", 1, "32/8x128", 32768][1], 42.3)

    def test_steps_match_by_shape_and_length(self):
        fastest = compare.fastest_peers([STEP])
        for name, matches in (("step llama_1b 1gpu S=32K", True), ("step 1b 1gpu S=32K", True),
                              ("step llama_1b 1gpu S=64K", False),
                              ("step llama_8b 1gpu S=32K", False)):
            case = next(compare.joined([{"case": name, "ms": 1000.0}], fastest))
            self.assertEqual("ratio" in case, matches, name)

    def test_cases_without_a_peer_stay_as_they_are(self):
        case = {"case": "all_gather 2gpu 64KB", "ms": 1.0}
        self.assertEqual(list(compare.joined([case], compare.fastest_peers([ULYSSES]))), [case])


if __name__ == "__main__":
    unittest.main()
