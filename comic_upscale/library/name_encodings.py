"""Recognise the encoding of the names in an old archive, which does not declare it.

UTF-8 is easy to recognise, because text in another encoding is hardly ever valid UTF-8. Otherwise every encoding that
was common in archives is tried, and each result is scored as text: common characters of one language, letters of one
case within a word. If no encoding is clearly better than the others, the bytes stay. `valid_names` writes them as
``%E9``, from which the name can be recovered. After a wrong guess, nobody would know how to recover it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

_LEAST_SCORE = 0.75
"""A result with a lower mean score of its characters is not accepted as text."""
_LEAST_SCORE_ALONE = 0.4
"""The same if no other encoding gives any text."""
_LEAST_LEAD = 0.25
"""The least lead of the best encoding's mean score over that of any other encoding with another result."""
_LONGEST = 4096
"""The most characters that are scored. The names in an archive are alike."""

_SIMPLIFIED = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经"
    "么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三"
    "又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先"
    "海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计"
    "管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程"
    "北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运六七八九百千卷册集漫画番篇章版彩单汉组扫图终龙珠贼火影忍连载附录封"
)
"""The most common characters of Chinese in simplified script, and those of titles of comics."""
_TRADITIONAL = frozenset(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成方多經"
    "麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三"
    "又關點正業外將兩高間由問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老給世位次度門任常先"
    "海通教兒原東聲提立及比員解水名真論處走義各入幾口認條平系氣題活爾更別打女變四神總何電數安少報才結反受目太量再感建務做接必場件計"
    "管期市直德資命山金指克許統區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王象完設式色路記南品住告類求據程"
    "北邊死張該交規萬取拉格望覺術領共確傳師觀清今切院讓識候帶導爭運六七八九百千卷冊集漫畫番篇章版彩單漢組掃圖終龍珠賊火影忍連載附錄封"
)
"""The same in traditional script."""
_HANGUL = frozenset(
    "이다는의을가에고하지기한나로사자어도인서시리아들그해대니일게수만라보전정있것장면여상부마모조주과은스구으원소제되내화오우세유신동경"
    "성거진러학미선무안비생공식야간문년발국명영적회입당연반와방치계속실음강후차할출최드난남분중물법관통형작목권편호외번코믹만복검왕"
)
"""The most common syllables of Korean, and those of titles of comics."""

_LATIN_1252 = {
    "é": 2, "á": 2, "í": 2, "ó": 2, "ú": 2, "ü": 2, "ö": 2, "ä": 2, "ß": 2, "è": 2, "à": 2, "ç": 2, "ñ": 2, "ê": 1.8,
    "â": 1.8, "ô": 1.8, "î": 1.6, "ã": 1.8, "å": 1.8, "ø": 1.4, "æ": 1.6, "û": 1.2, "õ": 1.2, "ë": 1.4, "ï": 1.2,
    "œ": 1.4, "ù": 1, "ò": 1, "ý": 1, "ì": 0.6, "ð": 0.6, "þ": 0.6, "š": 0.4, "ž": 0.4, "ÿ": 0,
}  # fmt: skip
_LATIN_1250 = {
    "é": 2, "á": 2, "í": 2, "ó": 2, "ú": 2, "ü": 2, "ö": 2, "ä": 2, "ß": 2, "ł": 2, "ą": 2, "ę": 2, "ż": 2, "ś": 1.8,
    "č": 1.6, "š": 1.8, "ž": 1.8, "ř": 1.8, "ě": 1.8, "ů": 1.8, "ý": 1.6, "ć": 1.4, "ń": 1.4, "ź": 1.4, "ő": 1.4,
    "ű": 1.4, "đ": 1, "ň": 1.2, "ď": 1, "ť": 1.2, "ă": 1, "ş": 0.8, "ţ": 0.8, "î": 0.8, "â": 0.8, "ç": 0.6, "ë": 0.6,
    "ĺ": 0.2, "ľ": 0.8, "ŕ": 0.2, "ô": 0.8,
}  # fmt: skip
"""How common a letter is in texts of a code page, 0 to 2; lower case."""

_CODE_PAGES = ("cp437", "cp1252", "cp1250", "cp850", "cp852", "cp1251", "cp866")
"""Encodings with one byte per character. Of those with equal results, the first one wins."""
_LATIN = {
    "cp437": _LATIN_1252, "cp850": _LATIN_1252, "cp1252": _LATIN_1252, "cp852": _LATIN_1250, "cp1250": _LATIN_1250,
}  # fmt: skip
_WESTERN = ("cp437", "cp850", "cp1252")
_OF_DOS = ("cp437", "cp850", "cp852", "cp866")
_VOWELS = frozenset("aeiouyäöüßæøœ")
_NO_VOWEL_BEHIND = frozenset("èìòùêûø")
_NO_CAPITALS = frozenset("ÈÌÒÙÊÛ")
"""Letters that begin few words."""
_SCRIPTS = (
    (0xC0, 0x24F), (0x300, 0x36F), (0x386, 0x3CE), (0x410, 0x45F), (0x5D0, 0x5EA), (0x621, 0x64A),
)  # fmt: skip
"""Letters of Latin, accents, Greek, Cyrillic, Hebrew and Arabic."""
_RARE = frozenset("\u00d7÷ĸĿŀŉŊŋŦŧſ")
_THREE_BYTES = 0x0800
_CYRILLIC = ("cp1251", "cp866")
_CHARACTER_SETS = ("cp932", "gbk", "big5", "cp949", "euc_jp")
_APOSTROPHES = "\u2018\u2019"
_PUNCTUATION = frozenset(f"{_APOSTROPHES}“”„\u2013—…«»°·¡¿№")


def decode_names(raw: Sequence[bytes]) -> list[str]:
    """Decode the names of an archive that does not declare their encoding.

    All names of an archive come from one machine, so all are decoded in the same way.

    Args:
        raw: the names as stored in the file.

    Returns:
        The names. If the encoding is unclear, bytes that are not ASCII become Python's lone surrogates.
    """
    text = b"\n".join(name for name in raw if not name.isascii())
    encoding = "utf-8" if _is_utf8(text) else _recognise(text) or "utf-8"
    return [name.decode(encoding, "surrogateescape") for name in raw]


def _is_utf8(text: bytes) -> bool:
    """Return whether a text is UTF-8, and not a short text in another encoding that is valid UTF-8 by chance."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return False
    return decoded.isascii() or any(_is_usual(character) for character in decoded if not character.isascii())


def _is_usual(character: str) -> bool:
    """Return whether a character is usual in names, or takes more than two bytes in UTF-8."""
    code = ord(character)
    return code >= _THREE_BYTES or (
        any(first <= code <= last for first, last in _SCRIPTS) and character not in _RARE
    )


@lru_cache(maxsize=64)
def _recognise(text: bytes) -> str | None:
    """Return the encoding of a text that is not UTF-8; None if it is unclear."""
    found: list[tuple[float, str, str]] = []
    for encoding in (*_CHARACTER_SETS, *_CODE_PAGES):
        try:
            decoded = text.decode(encoding)
            # Some encodings can write a character in two ways. Then the bytes could not be recovered.
            if decoded.encode(encoding) != text:
                continue
        except UnicodeError:
            continue
        found.append((_judge(decoded[:_LONGEST], encoding), encoding, decoded))
    if not found:
        return None
    score, encoding, decoded = max(found, key=lambda candidate: candidate[0])
    other = max((score for score, _, another in found if another != decoded), default=-2.0)
    # A dash or a quotation mark is weak evidence, but it counts if no other encoding gives text.
    least = _LEAST_SCORE if other > 0 else _LEAST_SCORE_ALONE
    return encoding if score >= least and score - other >= _LEAST_LEAD else None


def _judge(text: str, encoding: str) -> float:
    """Return the mean score of the characters of a text that are not ASCII, each at most 2."""
    marks = []
    for at, character in enumerate(text):
        if character.isascii():
            continue
        before = text[at - 1] if at else "\n"
        after = text[at + 1] if at + 1 < len(text) else "\n"
        if encoding in _CHARACTER_SETS:
            marks.append(_judge_east_asian(character, before, after, encoding))
        elif encoding in _CYRILLIC:
            marks.append(_judge_cyrillic(character, before, after))
        else:
            marks.append(_judge_latin(character, before, after, encoding))
    # Programs on Windows wrote names in the code page of DOS more often than in that of Windows.
    return sum(marks) / max(1, len(marks)) + (0.1 if encoding in _OF_DOS else 0.0)


def _judge_east_asian(character: str, before: str, after: str, encoding: str) -> float:
    mark = _mark_east_asian(character, encoding)
    # A letter of another encoding and the ASCII letter after it look like one character.
    if any(beside.isascii() and beside.islower() for beside in (before, after)):
        mark -= 1.5
    return mark


def _mark_east_asian(character: str, encoding: str) -> float:
    code = ord(character)
    if 0x3000 <= code <= 0x3020 or 0xFF01 <= code <= 0xFF5E:
        return 1.0
    if encoding == "cp949":
        if character in _HANGUL:
            return 2.0
        # The 2,350 syllables of the standard. The code page has all others too, which nobody writes.
        return 1.0 if 0xAC00 <= code <= 0xD7A3 and character.encode(encoding)[1] >= 0xA1 else -1.5
    if encoding in ("cp932", "euc_jp"):
        if 0x3041 <= code <= 0x30FF:
            return 2.0
        if 0xFF61 <= code <= 0xFF9F:
            return -0.5
        if not 0x3005 <= code <= 0x9FFF:
            return -1.5
        if encoding == "euc_jp":
            # Chinese and Korean use the same bytes, so only kana decide.
            return 0.6
        # The first of the two levels has the characters of daily use.
        return 1.6 if character.encode(encoding) < b"\x98\x9f" else 0.3
    if not 0x4E00 <= code <= 0x9FFF:
        return -1.5
    if character in (_SIMPLIFIED if encoding == "gbk" else _TRADITIONAL):
        return 2.0
    lead = character.encode(encoding)
    if encoding == "gbk":
        if min(lead) < 0xA1:
            return -1.5
        return 0.7 if lead[0] <= 0xD7 else 0.2
    return 0.7 if lead[0] <= 0xC6 else 0.1


def _judge_cyrillic(character: str, before: str, after: str) -> float:
    if not 0x0400 <= ord(character) <= 0x045F:
        return 0.5 if character in _PUNCTUATION else -2.0
    if any(beside.isascii() and beside.isalpha() for beside in (before, after)):
        return -1.5
    if character.isupper() and before.islower():
        return -1.5
    beside = [other for other in (before, after) if 0x0400 <= ord(other) <= 0x045F]
    # Letters of Russian, Ukrainian and Serbian; the others belong to none of these.
    common = 0x0410 <= ord(character) <= 0x044F or character in "ёЁіІїЇєЄґҐјЈљЉњЊђЂћЋ"
    if not common:
        return -0.5
    return (0.2 if character.islower() else -0.5, 1.0, 1.6)[len(beside)]


def _judge_latin(character: str, before: str, after: str, encoding: str) -> float:
    in_word = [other for other in (before, after) if _is_latin(other)]
    if not _is_latin(character):
        if character in _APOSTROPHES and len(in_word) == 2:
            return 1.0
        if character in _PUNCTUATION:
            return 0.5 if len(in_word) < 2 else -1.0
        return -2.0
    small = character.lower()
    mark = _LATIN[encoding].get(small, -1.0)
    beside = sum(not other.isascii() for other in in_word)
    if encoding in _WESTERN:
        # Few western languages have two such letters side by side. Misread eastern ones have many.
        mark -= 0.7 * beside
        if small in _NO_VOWEL_BEHIND and _base(after) in _VOWELS:
            mark -= 1.5
    elif beside == 2:
        mark -= 0.7
    if small == "ß" and _base(before) not in _VOWELS:
        mark -= 3
    if character.isupper():
        # A capital within a word is an error, unless the whole word is in capitals.
        if before.islower() or (after.islower() and before.isupper()):
            return -1.5
        if not in_word:
            return 0.8 if character == "À" else -0.5
        return min(mark, 0.5) if character in _NO_CAPITALS and after.islower() else mark
    if before.isupper() and after.isupper():
        return -1.5
    if not in_word:
        # Few other letters form a word alone.
        return min(mark, 0.8) if character in "àéèó" else -0.5
    return mark


def _base(letter: str) -> str:
    return unicodedata.normalize("NFD", letter)[0].lower()


def _is_latin(character: str) -> bool:
    return character.isalpha() and "LATIN" in unicodedata.name(character, "")
