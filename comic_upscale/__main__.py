"""``python -m comic_upscale``."""

from comic_upscale.start import main

if __name__ == "__main__":
    main()
