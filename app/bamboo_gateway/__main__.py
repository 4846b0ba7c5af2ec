"""`python -m bamboo_gateway` is `bamboo`."""

from bamboo_gateway.cli import main

if __name__ == "__main__":
    main()
