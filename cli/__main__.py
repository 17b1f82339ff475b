"""`python -m cli`, the same as `bluelora`."""

import sys

from cli.main import main

sys.exit(main())
