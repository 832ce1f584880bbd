import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))
from greeting import greeting  # noqa: E402


class Greeting(unittest.TestCase):
    def test_greets_by_name(self):
        self.assertEqual(greeting("Ada"), "Hello, Ada!\n")


if __name__ == "__main__":
    unittest.main()
