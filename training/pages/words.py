"""What is said on the pages: sentences put together from lists of words, in Latin letters and in Japanese."""

# Japanese has wide marks of its own, which look like narrow Latin ones.
# ruff: noqa: RUF001

from __future__ import annotations

from random import Random


def _split(words: str, mark: str | None = None) -> tuple[str, ...]:
    return tuple(words.split(mark))


_NAMES = _split(
    "Mara Otto Pip Juno Elias Vera Kato Bruno Tilda Ravi Suki Nadia Hugo Ines Marlow Dex Odile Finn Greta "
    "Boris Lola Wren Ivo Zelda Quentin Yara Milo Petra Axel Nell"
)
_THINGS = _split(
    "lantern engine teapot letter bridge ladder garden rocket whistle blanket mirror compass kettle window "
    "harbour basket statue signal pocket hammer ticket violin carpet marble bottle castle sandwich umbrella "
    "notebook trumpet bicycle keyhole pumpkin telescope staircase suitcase toolbox mailbox chimney furnace "
    "parachute submarine accordion typewriter lighthouse clockwork dragon robot wizard goblin pirate captain "
    "baker painter sailor doctor thief queen giant ghost fox owl badger raven beetle whale tiger spider "
    "lobster sparrow moth"
)
_PLACES = _split(
    "city valley market cellar station rooftop island desert tunnel library workshop museum forest bakery "
    "attic mountain laboratory theatre corridor courtyard cemetery observatory underpass shipyard meadow"
)
_DEEDS = _split(
    "find steal repair follow carry open hide wake trust forget borrow sell paint move break polish wind lift "
    "drop feed bury guard measure replace sharpen swallow inspect exchange deliver question"
)
_DONE = _split(
    "vanished exploded melted returned escaped answered arrived collapsed whispered laughed shouted waited "
    "stopped glowed trembled wandered listened crashed floated cracked"
)
_QUALITIES = _split(
    "old tiny golden broken silent crooked dusty frozen hungry invisible jolly lonely nervous ordinary "
    "peculiar quick rusty sleepy terrible unusual velvet wild yellow zealous brave clever dreadful enormous "
    "faint gentle hollow ancient bitter careful distant electric foolish grim humble icy"
)
_WHENS = _split(
    "tonight|at dawn|before noon|after the storm|every Sunday|next week|years ago|this morning|at once|"
    "too late|in an hour|when it rains|while you slept|by midnight|on the third day|sooner or later",
    "|",
)
_SHOUTS = _split(
    "No!|Wait!|Look out!|Run!|What?!|Ha ha ha!|Help!|Never!|Quick!|Stop!|Why me?|At last!|Oh no...|Hmm.|"
    "Really?|Come on!|Get down!|Who's there?|Not again!|It works!|Huh?|Yes!|Ugh...|Eek!|Careful!|Liar!|"
    "Shh!",
    "|",
)
_CONCERNS = _split(
    "trouble nothing everything money time luck silence thunder fire water bread smoke honey paper iron glass "
    "gold salt courage patience"
)
_NOISES = _split(
    "BOOM CRASH ZAP WHOOSH KRAKK THUD SPLASH BANG VROOM SKREEE POW CLANG RUMBLE CLICK FWOOSH KABLAM SNAP DRIP "
    "BZZZT THWIP RATATAT GRRR HONK SLAM TICK WHAM KNOCK CHOMP SIZZLE POOF"
)
_FOREIGN = _split(
    "Où est passé le garçon ?|Ça alors, quelle journée !|Il était déjà là hier soir.|"
    "Non, c'est à côté du théâtre.|¿Dónde está el señor Núñez?|¡Qué sorpresa, mañana será otro día!|"
    "El corazón del dragón aún late.|Über den Dächern wird's schön kühl.|Grüße aus der größten Höhle!|"
    "Für Käse würde ich alles tun.|Perché non è più così?|A manhã não é amanhã.|"
    "Så här går det för älgen.|Hôtel, forêt, île, noël.|Voilà le trésor caché sous l'évier.|"
    "Même l'été, la forêt est glacée.|Ärger mit den Öfen, wie üblich.|Señora, su café y su piñata.|"
    "L'œuvre du maître a brûlé.",
    "|",
)
_TITLES = _split(
    "THE {Q} {T}|{N} AND THE {T}|{T} OF THE {P}|NIGHT {T}|{Q} {P}|{N}'S {T}|SECRET {T}|{P} {T}S|RED {T}|"
    "STAR {T}",
    "|",
)

_TEMPLATES = (
    "Where is the {q} {t}?",
    "I told you to {d} the {t} {w}.",
    "{N}, did you {d} my {q} {t}?",
    "The {q} {t} {v} in the {p}.",
    "Nobody can {d} a {q} {t} and a {t} {w}!",
    "We must {d} it before {n} knows about the {t}.",
    "There were {k} {t}s in the {p}, all of them {q}.",
    "It smells of {c}, {c} and {c}...",
    "{n} said: \u201cThe {t} {v}.\u201d",
    "Meet me at the {p} {w}; bring the {t}.",
    "Only {k} minutes left to {d} the {t}!",
    "If the {t} is {q}, then who {v}?",
    "Give me {c}, or I will {d} the {t}.",
    "And so the {t} {v}, {q} and {q}.",
    "Meanwhile, in the {p}...",
    "{s} The {t} {v}!",
    "{s} We are out of {c}!",
    "{s}",
    "My {t} never {v} like that. Not in {k} years.",
    "Room {k}: the {q} {p}, {w}.",
    "You call this a {t}? It's a {q} {t} with {c}!",
    "Don't {d} the {t}, {n}. Don't even look at it.",
    "{k}, {k}, {k}... something {v}!",
    "The {p} was {q} {w}, but the {p} was {q}.",
    "As {q} as a {t} & twice as {q}.",
)

# Each word with its reading, for the small letters beside it; without one where it is written in kana.
_JP_WHO = (
    ("俺", "おれ"),
    ("私", "わたし"),
    ("先生", "せんせい"),
    ("彼女", "かのじょ"),
    ("あいつ", ""),
    ("誰か", "だれか"),
    ("猫", "ねこ"),
    ("魔王", "まおう"),
    ("隊長", "たいちょう"),
    ("妹", "いもうと"),
    ("みんな", ""),
    ("店長", "てんちょう"),
    ("ロボット", ""),
    ("姫様", "ひめさま"),
    ("お前", "おまえ"),
    ("博士", "はかせ"),
)
_JP_WHAT = (
    ("剣", "けん"),
    ("約束", "やくそく"),
    ("世界", "せかい"),
    ("手紙", "てがみ"),
    ("秘密", "ひみつ"),
    ("未来", "みらい"),
    ("ケーキ", ""),
    ("時計", "とけい"),
    ("扉", "とびら"),
    ("機械", "きかい"),
    ("弁当", "べんとう"),
    ("宝石", "ほうせき"),
    ("傘", "かさ"),
    ("地図", "ちず"),
    ("ロケット", ""),
    ("真実", "しんじつ"),
    ("薬", "くすり"),
    ("夕焼け", "ゆうやけ"),
    ("電車", "でんしゃ"),
    ("名前", "なまえ"),
)
_JP_DEED = (
    ("見つけた", "みつけた"),
    ("守る", "まもる"),
    ("忘れない", "わすれない"),
    ("壊した", "こわした"),
    ("食べたい", "たべたい"),
    ("信じてる", "しんじてる"),
    ("盗まれた", "ぬすまれた"),
    ("返して", "かえして"),
    ("待っている", "まっている"),
    ("探そう", "さがそう"),
    ("開けるな", "あけるな"),
    ("変えてみせる", "かえてみせる"),
    ("知っている", "しっている"),
)
_JP_WHERE = (
    ("学校", "がっこう"),
    ("駅前", "えきまえ"),
    ("森", "もり"),
    ("屋上", "おくじょう"),
    ("海", "うみ"),
    ("図書館", "としょかん"),
    ("町", "まち"),
    ("空", "そら"),
    ("教室", "きょうしつ"),
    ("山", "やま"),
)
_JP_SHOUTS = _split(
    "なに！？|まさか…|やめろ！|嘘だろ…|はやく！|ええっ！？|ちょっと待って！|そうか…|ありがとう。|"
    "行くぞ！|くそっ！|大丈夫？|ふふふ…|助けて！|わかった。|あれ？|どうして…|おはよう！|バカな！|"
    "もう一度！|すごい！|しまった！",
    "|",
)
_JP_NOISES = _split(
    "ドドドド|ゴゴゴゴ|バキッ|ドカーン|ザワザワ|ピカッ|ガシャン|シーン|ズズズ|ビュウウ|キラッ|"
    "ドキドキ|バン！|グオオオ|ペタペタ|カチャ|ワアアア|ドン！！|ザッ|ゴロゴロ",
    "|",
)
_JP_ENDS = ("。", "！", "…", "よ。", "ぞ！", "のか？", "んだ。", "！！")

Ruby = tuple[tuple[str, str], ...]
"""Pieces of a text, each with its reading ("" for none)."""


def sentence(dice: Random, *, plain: bool = False) -> str:
    """Something said in Latin letters; plain keeps to English."""
    if not plain and dice.random() < 0.12:
        return dice.choice(_FOREIGN)
    said = _filled(dice.choice(_TEMPLATES), dice)
    return said[0].upper() + said[1:]


def speech(dice: Random, most: int = 90, *, plain: bool = False) -> str:
    """One or two sentences, no longer than so many letters if that can be had."""
    said = sentence(dice, plain=plain)
    if dice.random() < 0.35:
        more = f"{said} {sentence(dice, plain=plain)}"
        said = more if len(more) <= most else said
    for _ in range(8):
        if len(said) <= most:
            break
        said = sentence(dice, plain=plain)
    return said if len(said) <= most else dice.choice(_SHOUTS)


def noise(dice: Random) -> str:
    """A sound, in Latin capitals."""
    return dice.choice(_NOISES) + dice.choice(("", "", "!", "!!"))


def title(dice: Random) -> str:
    """The name of a comic, in capitals."""
    return _filled(dice.choice(_TITLES), dice).upper()


def japanese_speech(dice: Random) -> Ruby:
    """Something said in Japanese, in pieces with their readings."""
    if dice.random() < 0.35:
        return ((dice.choice(_JP_SHOUTS), ""),)
    pieces = [dice.choice(_JP_WHO), (dice.choice("はがも"), "")]
    if dice.random() < 0.4:
        pieces += [dice.choice(_JP_WHERE), (dice.choice(("で", "から")), "")]
    pieces += [dice.choice(_JP_WHAT), ("を", ""), dice.choice(_JP_DEED), (dice.choice(_JP_ENDS), "")]
    return tuple(pieces)


def japanese_noise(dice: Random) -> str:
    """A sound, in katakana."""
    return dice.choice(_JP_NOISES)


def _filled(template: str, dice: Random) -> str:
    words = {
        "n": _NAMES,
        "t": _THINGS,
        "p": _PLACES,
        "d": _DEEDS,
        "v": _DONE,
        "q": _QUALITIES,
        "w": _WHENS,
        "s": _SHOUTS,
        "c": _CONCERNS,
    }
    said = template
    while "{" in said:
        at = said.index("{")
        key = said[at + 1].lower()
        word = str(dice.randint(2, 1999)) if key == "k" else dice.choice(words[key])
        said = said[:at] + word + said[at + 3 :]
    return said
