"""`python -m ucaudit` is the command `ucaudit`."""

from ucaudit.cli.main import main

if __name__ == "__main__":
    main()
