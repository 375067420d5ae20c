"""Comic pages drawn by chance: endless, sharp, and with every word on them known."""

from training.pages.lettering import Lettering
from training.pages.page import GRAY_KINDS, KINDS, DrawnPage, draw_lettered_page, draw_page

__all__ = ["GRAY_KINDS", "KINDS", "DrawnPage", "Lettering", "draw_lettered_page", "draw_page"]
