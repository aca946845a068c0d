"""`python -m budgateway` is `budgateway`."""

from budgateway.cli import main

if __name__ == "__main__":
    main()
