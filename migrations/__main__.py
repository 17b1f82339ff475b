"""`python -m migrations upgrade | current`, on the database that BLUELORA_* variables name."""

import argparse
import sys

from core.db import schema
from core.db.transactions import connect
from core.settings import Settings
from migrations import upgrading


def main() -> int:
    """Run one command; 0 is done."""
    parser = argparse.ArgumentParser(prog="python -m migrations", description=__doc__)
    parser.add_argument("command", choices=["upgrade", "current"])
    asked = parser.parse_args()
    settings = Settings()
    if settings.database_url is None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    if asked.command == "upgrade":
        upgrading.upgrade(settings.sql_url())
    database = connect(settings.sql_url())
    try:
        print(schema.revision(database) or "empty")
    finally:
        database.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
