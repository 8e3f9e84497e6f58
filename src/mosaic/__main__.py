"""Let ``python -m mosaic`` be the ``mosaic`` command."""

from mosaic.cli.main import main

if __name__ == "__main__":
    main()
