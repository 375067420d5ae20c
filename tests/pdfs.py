"""PDFs made of objects, for what no program writes on purpose: boxes, turns, masks, spaces, forms, bombs."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image


@dataclass(frozen=True, slots=True)
class Ref:
    """The number of an object."""

    number: int

    def __str__(self) -> str:
        return f"{self.number} 0 R"


@dataclass(slots=True)
class Pdf:
    """A PDF under construction: objects, and pages of what shows them."""

    objects: list[bytes] = field(default_factory=lambda: [b"", b""])
    pages: list[Ref] = field(default_factory=list)
    catalog: str = ""
    """Further entries of the catalog."""

    def add(self, body: str | bytes) -> Ref:
        """Add an object of any kind."""
        self.objects.append(body.encode("latin-1") if isinstance(body, str) else body)
        return Ref(len(self.objects))

    def stream(self, entries: str, data: bytes, *, packed: bool = False) -> Ref:
        """Add a stream, ``entries`` being what its dictionary holds besides its length."""
        if packed:
            entries, data = f"{entries} /Filter /FlateDecode", zlib.compress(data)
        head = f"<< {entries} /Length {len(data)} >>\nstream\n".encode("latin-1")
        return self.add(head + data + b"\nendstream")

    def jpeg(self, image: Image.Image, entries: str = "", *, quality: int = 90, **options: object) -> Ref:
        """Add an image as a JPEG; ``entries`` come after the usual ones, whose place they may take."""
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, **options)  # type: ignore[arg-type]
        return self.image(image, entries, buffer.getvalue(), "/DCTDecode")

    def raw(self, image: Image.Image, entries: str = "") -> Ref:
        """Add an image as packed samples."""
        return self.image(image, entries, zlib.compress(image.tobytes()), "/FlateDecode")

    def image(self, image: Image.Image, entries: str, data: bytes, filter: str) -> Ref:
        """Add an image of the size and mode of ``image`` whose data is packed already."""
        space = {"L": "/DeviceGray", "1": "/DeviceGray", "CMYK": "/DeviceCMYK"}.get(image.mode, "/DeviceRGB")
        usual = {
            "/Type": "/XObject", "/Subtype": "/Image", "/Width": str(image.width), "/Height": str(image.height),
            "/ColorSpace": space, "/BitsPerComponent": "1" if image.mode == "1" else "8", "/Filter": filter,
        }  # fmt: skip
        words = entries.split()
        listed = " ".join(f"{key} {value}" for key, value in usual.items() if key not in words)
        return self.stream(f"{listed} {entries}", data)

    def form(self, content: str, bbox: str, resources: str = "", entries: str = "") -> Ref:
        """Add a form."""
        return self.stream(
            f"/Type /XObject /Subtype /Form /BBox [{bbox}] /Resources << {resources} >> {entries}",
            content.encode("latin-1"),
        )

    def page(
        self, content: str, resources: str = "", *, box: str = "0 0 172.8 259.2", entries: str = ""
    ) -> Ref:
        """Add a page.

        Args:
            content: its operators.
            resources: such as ``"/XObject << /A 4 0 R >>"``.
            box: its media box, in points.
            entries: further entries, such as ``"/Rotate 90"``.
        """
        shown = self.stream("", content.encode("latin-1"))
        page = self.add(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [{box}] /Resources << {resources} >> "
            f"/Contents {shown} {entries} >>"
        )
        self.pages.append(page)
        return page

    def show(
        self, image: Ref, matrix: str = "172.8 0 0 259.2 0 0", *, entries: str = "", box: str = ""
    ) -> Ref:
        """Add a page that shows one image."""
        return self.page(
            f"q {matrix} cm /A Do Q", f"/XObject << /A {image} >>",
            box=box or "0 0 172.8 259.2", entries=entries,
        )  # fmt: skip

    def bytes(self) -> bytes:
        """The file."""
        kids = " ".join(map(str, self.pages))
        self.objects[0] = f"<< /Type /Catalog /Pages 2 0 R {self.catalog} >>".encode("latin-1")
        self.objects[1] = f"<< /Type /Pages /Kids [{kids}] /Count {len(self.pages)} >>".encode("latin-1")
        out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
        places = []
        for number, body in enumerate(self.objects, 1):
            places.append(len(out))
            out += f"{number} 0 obj\n".encode() + body + b"\nendobj\n"
        start = len(out)
        out += f"xref\n0 {len(places) + 1}\n0000000000 65535 f \n".encode()
        for place in places:
            out += f"{place:010d} 00000 n \n".encode()
        out += f"trailer\n<< /Size {len(places) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
        return bytes(out)

    def save(self, path: Path) -> Path:
        """Write the file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.bytes())
        return path


def strips(pdf: Pdf, image: Image.Image, count: int, *, width: float, height: float) -> Ref:
    """Add a page that shows an image in strips from the top down, as scanners store it."""
    rows = [image.height * at // count for at in range(count + 1)]
    refs = [pdf.raw(image.crop((0, rows[at], image.width, rows[at + 1]))) for at in range(count)]
    per_row = height / image.height
    content = "".join(
        f"q {width} 0 0 {(rows[at + 1] - rows[at]) * per_row:.4f} 0 {height - rows[at + 1] * per_row:.4f} cm "
        f"/S{at} Do Q\n"
        for at in range(count)
    )
    named = " ".join(f"/S{at} {ref}" for at, ref in enumerate(refs))
    return pdf.page(content, f"/XObject << {named} >>", box=f"0 0 {width} {height}")


def sheet(size: tuple[int, int], marks: Sequence[tuple[int, int, int, int]] = ()) -> Image.Image:
    """A white page with black boxes, in gray: nearly nothing to see, as a title page has."""
    image = Image.new("L", size, 255)
    for box in marks:
        image.paste(0, box)
    return image
