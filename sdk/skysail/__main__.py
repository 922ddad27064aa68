"""`python -m skysail`: the command line."""

from skysail.cli.main import main

if __name__ == "__main__":
    main()
