"""`jaxage study`, from a checkout."""

from jaxage.cli import run

if __name__ == "__main__":
    run("study")
