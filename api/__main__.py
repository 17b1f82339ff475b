"""`python -m api`: serve HTTP on the host and port of the settings."""

from api.main import run

if __name__ == "__main__":
    run()
