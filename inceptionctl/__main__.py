"""`python -m inceptionctl` is the same command as `inceptionctl`."""

from inceptionctl.cli import main

if __name__ == "__main__":
    main()
