"""Write a volume as an EPUB 3 with fixed layout, page by page, or as a KEPUB for Kobo.

Only the entries of the pages stay in memory, so a book may have any number of pages. The same pages give the same
bytes: times are fixed, and the identifier comes from the content. The package document is written last, because it
lists everything.
"""

from __future__ import annotations

import hashlib
import re
import uuid
import zipfile
from dataclasses import dataclass
from typing import IO
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from comic_upscale.errors import PageError
from comic_upscale.imaging.leaves import Leaf
from comic_upscale.library.books.about import About
from comic_upscale.library.books.images import BookImage

MIME = b"application/epub+zip"
IMAGES = "OEBPS/images/"
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_UNIX, _PLAIN_FILE = 3, 0o100644 << 16
_MODIFIED = "2000-01-01T00:00:00Z"
"""The package document must have a time. A real one would make every file different."""
_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
_EXTENSIONS = {"png": "png", "jpeg": "jpg", "webp": "webp"}
_ENTRY_BYTES = 1200
"""More than a leaf adds to the package document, the navigation and the directory of the ZIP."""

_CONTAINER = """<?xml version="1.0" encoding="UTF-8"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
  <rootfiles>
    <rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/>
  </rootfiles>
</container>
"""
_STYLE = """html, body { margin: 0; padding: 0; height: 100%; background-color: #ffffff; }
div { margin: 0; padding: 0; text-align: center; }
img { display: block; margin: 0 auto; padding: 0; border: 0; }
"""
_PAGE = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml"{language}>
<head>
<meta charset="UTF-8"/>
<title>{title}</title>
<link href="style.css" type="text/css" rel="stylesheet"/>
<meta name="viewport" content="width={width}, height={height}"/>
</head>
<body>
{body}
</body>
</html>
"""
_NAMESPACES = (
    'xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/" version="3.0" '
    'unique-identifier="id" prefix="rendition: http://www.idpf.org/vocab/rendition/#"'
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A leaf that was written."""

    name: str
    """Of its files, without folder and extension: ``p00001`` or ``p00001-2``."""
    image: str
    """The file of its image."""
    kind: str
    width: int
    height: int
    number: int
    side: str


class EpubWriter:
    """Writes a book to a file.

    Args:
        file: open for writing, and seekable.
        about: the book.
        kobo: whether to write a KEPUB: an EPUB with the elements by which Kobo's reader finds places.
    """

    def __init__(self, file: IO[bytes], about: About, *, kobo: bool = False) -> None:
        self._about, self._kobo = about, kobo
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self._file = file
        self._entries: list[_Entry] = []
        self._digest = hashlib.sha256()
        self._add("mimetype", MIME)
        self._add("META-INF/container.xml", _CONTAINER)
        self._add("OEBPS/style.css", _STYLE)

    def room_for(self, leaf: Leaf) -> int:
        """Return the bytes that the file would have with this leaf, at most."""
        return self._file.tell() + len(leaf.data) + _ENTRY_BYTES * (len(self._entries) + 2) + 8192

    def add(self, leaf: Leaf, image: BookImage) -> None:
        """Add a leaf, with its image."""
        name = f"p{leaf.number:05}" + (f"-{leaf.part}" if leaf.part else "")
        entry = _Entry(
            name, f"images/{name}.{_EXTENSIONS[image.kind]}", image.kind, leaf.width, leaf.height, leaf.number,
            leaf.side,
        )  # fmt: skip
        self._digest.update(hashlib.sha256(image.data).digest())
        self._add(f"OEBPS/{entry.image}", image.data)
        self._add(f"OEBPS/{name}.xhtml", self._page(entry))
        self._entries.append(entry)

    def finish(self) -> None:
        """Write what lists the pages, and the end of the file."""
        language = self._about.language
        identifier = uuid.uuid5(uuid.NAMESPACE_OID, f"{self._about.title}\n{self._digest.hexdigest()}").urn
        self._add("OEBPS/nav.xhtml", self._navigation(language))
        self._add("OEBPS/toc.ncx", self._ncx(identifier))
        self._add("OEBPS/content.opf", self._package(identifier, language))
        self._zip.close()

    def close(self) -> None:
        """Forget the book, which may be unfinished."""
        # zipfile writes a directory when it is closed, and the file may be closed already.
        self._zip.fp = None

    def _add(self, name: str, content: str | bytes) -> None:
        info = zipfile.ZipInfo(name, _FIRST_DAY)
        info.create_system, info.external_attr = _UNIX, _PLAIN_FILE
        is_text = isinstance(content, str)
        info.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
        self._zip.writestr(info, content.encode() if isinstance(content, str) else content)

    def _page(self, entry: _Entry) -> str:
        size = f'width="{entry.width}" height="{entry.height}"'
        image = f'<img alt="Page {entry.number}" src="{entry.image}" {size}/>'
        if self._kobo:
            image = f'<span class="koboSpan" id="kobo.1.1">{image}</span>'
            image = f'<div id="book-columns"><div id="book-inner"><div>{image}</div></div></div>'
        else:
            image = f"<div>{image}</div>"
        return _PAGE.format(
            language=_language(self._about.language),
            title=f"Page {entry.number}", width=entry.width, height=entry.height, body=image,
        )  # fmt: skip

    def _firsts(self) -> list[_Entry]:
        """Return the first leaf of every page."""
        first: dict[int, _Entry] = {}
        for entry in self._entries:
            first.setdefault(entry.number, entry)
        return [*first.values()]

    def _places(self) -> list[tuple[str, str]]:
        """Return the table of contents: (title, document) of each place."""
        of_page = {entry.number - 1: entry for entry in reversed(self._entries)}
        marks = [
            (each.title, f"{of_page[each.page].name}.xhtml")
            for each in self._about.bookmarks
            if each.page in of_page
        ]
        start = f"{self._entries[0].name}.xhtml"
        if not marks or marks[0][1] != start:
            marks.insert(0, (self._about.title, start))
        return marks

    def _navigation(self, language: str) -> str:
        toc = "\n".join(
            f"<li><a href={quoteattr(place)}>{escape(title)}</a></li>" for title, place in self._places()
        )
        pages = "\n".join(
            f'<li><a href="{each.name}.xhtml">{each.number}</a></li>' for each in self._firsts()
        )
        return f"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"{_language(language)}>
<head>
<meta charset="UTF-8"/>
<title>{escape(self._about.title)}</title>
</head>
<body>
<nav epub:type="toc" id="toc">
<ol>
{toc}
</ol>
</nav>
<nav epub:type="page-list" id="pages" hidden="">
<ol>
{pages}
</ol>
</nav>
</body>
</html>
"""

    def _ncx(self, identifier: str) -> str:
        points = "\n".join(
            f'<navPoint id="n{at}" playOrder="{at}"><navLabel><text>{escape(title)}</text></navLabel>'
            f"<content src={quoteattr(place)}/></navPoint>"
            for at, (title, place) in enumerate(self._places(), 1)
        )
        return f"""<?xml version="1.0" encoding="UTF-8"?>
<ncx xmlns="http://www.daisy.org/z3986/2005/ncx/" version="2005-1">
<head><meta name="dtb:uid" content="{identifier}"/></head>
<docTitle><text>{escape(self._about.title)}</text></docTitle>
<navMap>
{points}
</navMap>
</ncx>
"""

    def _package(self, identifier: str, language: str) -> str:
        rtl = self._about.right_to_left
        cover = self._entries[0]
        manifest = [
            '<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>',
            '<item id="ncx" href="toc.ncx" media-type="application/x-dtbncx+xml"/>',
            '<item id="style" href="style.css" media-type="text/css"/>',
        ]
        spine = []
        for each in self._entries:
            properties = ' properties="cover-image"' if each is cover else ""
            manifest.append(
                f'<item id="i-{each.name}" href="{each.image}" media-type="{_TYPES[each.kind]}"{properties}/>'
            )
            manifest.append(
                f'<item id="{each.name}" href="{each.name}.xhtml" media-type="application/xhtml+xml"/>'
            )
            side = f' properties="page-spread-{each.side}"' if each.side else ""
            spine.append(f'<itemref idref="{each.name}"{side}/>')
        lines = "\n".join
        direction = ' page-progression-direction="rtl"' if rtl else ' page-progression-direction="ltr"'
        return f"""<?xml version="1.0" encoding="UTF-8"?>
<package {_NAMESPACES}>
<metadata>
{lines(self._metadata(identifier, language, cover))}
</metadata>
<manifest>
{lines(manifest)}
</manifest>
<spine toc="ncx"{direction}>
{lines(spine)}
</spine>
</package>
"""

    def _metadata(self, identifier: str, language: str, cover: _Entry) -> list[str]:
        about = self._about
        lines = [
            f'<dc:identifier id="id">{identifier}</dc:identifier>',
            f"<dc:title>{escape(about.title)}</dc:title>",
            f"<dc:language>{escape(language)}</dc:language>",
        ]
        for at, (name, role) in enumerate(about.people):
            element = "creator" if role in ("aut", "art") else "contributor"
            lines.append(f'<dc:{element} id="person{at}">{escape(name)}</dc:{element}>')
            lines.append(f'<meta refines="#person{at}" property="role" scheme="marc:relators">{role}</meta>')
        for element, text in (
            ("publisher", about.publisher), ("description", about.description), ("date", about.date),
            *(("subject", subject) for subject in about.subjects),
        ):  # fmt: skip
            if text:
                lines.append(f"<dc:{element}>{escape(text)}</dc:{element}>")
        if about.series:
            lines.append(f'<meta property="belongs-to-collection" id="series">{escape(about.series)}</meta>')
            lines.append('<meta refines="#series" property="collection-type">series</meta>')
            if re.fullmatch(r"\d+(\.\d+)*", about.number, re.ASCII):
                lines.append(f'<meta refines="#series" property="group-position">{about.number}</meta>')
        return [
            *lines,
            f'<meta property="dcterms:modified">{_MODIFIED}</meta>',
            '<meta property="rendition:layout">pre-paginated</meta>',
            '<meta property="rendition:orientation">auto</meta>',
            '<meta property="rendition:spread">landscape</meta>',
            # Kindles and old readers know these.
            f'<meta name="cover" content="i-{cover.name}"/>',
            '<meta name="fixed-layout" content="true"/>',
            '<meta name="book-type" content="comic"/>',
            f'<meta name="primary-writing-mode" content="horizontal-{"rl" if about.right_to_left else "lr"}"/>',
            f'<meta name="original-resolution" content="{cover.width}x{cover.height}"/>',
        ]


def _language(language: str) -> str:
    return f' lang="{language}" xml:lang="{language}"'


def check_epub(file: IO[bytes], images: int) -> None:
    """Prove that an EPUB that `EpubWriter` wrote can be read: its directory, every checksum, and its documents.

    Args:
        file: open for reading, and seekable.
        images: that it contains.

    Raises:
        PageError: ``"encode"``.
    """
    whole = False
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            whole = (
                archive.testzip() is None
                and names[:1] == ["mimetype"]
                and sum(name.startswith(IMAGES) for name in names) == images
                and len(set(names)) == len(names)
            )
            for name in ("OEBPS/content.opf", "OEBPS/nav.xhtml", "OEBPS/toc.ncx"):
                ET.fromstring(archive.read(name))
    except (zipfile.BadZipFile, KeyError, ET.ParseError, EOFError):
        whole = False
    if not whole:
        raise PageError("encode", "The new volume cannot be read back: the disk may be failing")
