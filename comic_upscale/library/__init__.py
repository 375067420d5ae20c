"""Where pages come from: folders, archives, EPUB and PDF volumes, and their metadata."""
