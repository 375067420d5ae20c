"""``python -m comic_upscale``."""

from comic_upscale.cli import main

if __name__ == "__main__":
    main()
