"""`python -m app` is `bamboo`."""

from app.cli import main

if __name__ == "__main__":
    main()
