"""`python -m worker`: serve jobs on this host until told to stop."""

import os
import sys

from worker.app import FLAGS, app

if __name__ == "__main__":
    sys.exit(app.start([*FLAGS, "--hostname", f"bluelora-{os.getpid()}@%h"]))
