"""`jaxage predict`, from a checkout."""

import sys

from jaxage.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
