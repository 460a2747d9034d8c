"""`python -m mtlref` is the command `mtlref`."""

import sys

from mtlref.cli import main

sys.exit(main())
