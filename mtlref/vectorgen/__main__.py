"""`python -m mtlref.vectorgen [--check] [METHOD ...]`: write the golden vectors, or compare them with what is there.

Exit status: 0 written, or the same; 1 something differs; 2 the vectors cannot be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mtlref.notation import MtlrefError
from mtlref.vectorgen import FOLDER, differences, generate, recipes

SAME, DIFFERS, UNUSABLE = 0, 1, 2
"""The exit statuses."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the generator and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m mtlref.vectorgen", description="Writes the golden vectors.")
    parser.add_argument("--check", action="store_true", help="write nothing: compare with the files that are there")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(recipes()))
    arguments = parser.parse_args(argv)
    try:
        made = generate(arguments.methods)
    except MtlrefError as error:
        print(f"vectorgen: {error}", file=sys.stderr)
        return UNUSABLE
    if arguments.check:
        found = differences(made, FOLDER)
        print("\n".join(found) if found else f"the same: {', '.join(made)}")
        return DIFFERS if found else SAME
    for name, text in made.items():
        (FOLDER / name).write_bytes(text.encode("utf-8"))
        print(f"{name}: {text.count(chr(10))} lines")
    return SAME


if __name__ == "__main__":
    sys.exit(main())
