"""Fine-grained species: how the attributes of a bird, a flower or a car become strokes, and words."""

from collections.abc import Mapping, Sequence

import numpy as np

Attributes = Mapping[str, str]

PAINTS = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink", "brown", "white", "grey", "black")

DOMAINS: dict[str, dict[str, tuple[str, ...]]] = {
    "bird": {
        "body": PAINTS,
        "wing": PAINTS,
        "head": PAINTS,
        "belly": PAINTS,
        "beak": ("short", "long", "hooked"),
        "tail": ("short", "long", "forked", "fan"),
        "crest": ("none", "tall"),
        "shape": ("slim", "round"),
    },
    "flower": {
        "petals": ("four", "five", "six", "eight", "twelve"),
        "edge": ("round", "pointed", "thin"),
        "outer": PAINTS,
        "inner": ("none", *PAINTS),
        "heart": PAINTS,
        "size": ("small", "large"),
        "leaves": ("none", "pair"),
    },
    "car": {
        "kind": ("sedan", "hatch", "van", "pickup", "roadster", "wagon", "bus", "coupe"),
        "paint": PAINTS,
        "roof": ("none", *PAINTS),
        "band": ("none", *PAINTS),
        "wheel": ("black", "white", "grey", "red"),
    },
    "butterfly": {
        "fore": PAINTS,
        "hind": PAINTS,
        "spot": ("none", *PAINTS),
        "body": PAINTS,
        "wing": ("round", "pointed", "narrow"),
        "tail": ("none", "long"),
    },
    "beetle": {
        "shell": PAINTS,
        "mark": PAINTS,
        "pattern": ("plain", "band", "spots", "cross"),
        "thorax": PAINTS,
        "head": PAINTS,
        "horn": ("none", "single", "forked"),
        "shape": ("round", "long"),
    },
}

_TAILS = {
    "short": ["poly -.4 -.05 -.35 .3 -.72 .22 {wing}"],
    "long": ["line -.4 .1 -.95 .42 .08 {wing}"],
    "forked": ["line -.4 .05 -.92 -.1 .06 {wing}", "line -.4 .15 -.9 .42 .06 {wing}"],
    "fan": ["poly -.3 .1 -.95 -.42 -.98 .05 -.85 .42 {wing}"],
}
_BEAKS = {
    "short": ["poly .58 -.38 .58 -.14 .84 -.24 orange"],
    "long": ["poly .55 -.36 .55 -.16 .99 -.24 orange"],
    "hooked": ["disc .66 -.26 .13 orange", "line .72 -.2 .72 -.06 .06 orange"],
}
_PETAL_NUMBER = {"four": 4, "five": 5, "six": 6, "eight": 8, "twelve": 12}
_PETAL_EDGE = {"round": ".55 .6", "pointed": ".3 1.6", "thin": ".15 1.1"}
# kind -> (lower body, upper body, windows, wheel x, wheel y): silhouettes fill the image, so that cars can be distinguished.
_CARS = {
    "sedan": ("box 0 .22 .97 .24", "poly -.6 .05 -.4 -.38 .35 -.38 .58 .05", ("poly -.42 .0 -.32 -.26 -.05 -.26 -.05 .0", "poly .05 .0 .05 -.26 .28 -.26 .42 .0"), 0.58),
    "hatch": ("box .05 .18 .72 .3", "poly -.66 0 -.6 -.5 .2 -.5 .55 0", ("poly -.5 -.04 -.48 -.36 -.12 -.36 -.12 -.04", "poly 0 -.04 0 -.36 .15 -.36 .36 -.04"), 0.45),
    "van": ("box 0 .15 .93 .35", "poly -.93 -.1 -.93 -.72 .5 -.72 .93 -.1", ("poly .3 -.18 .3 -.58 .45 -.58 .74 -.18",), 0.55),
    "pickup": ("box 0 .22 .98 .22", "poly -.05 .05 -.05 -.5 .4 -.5 .62 .05", ("poly .05 -.02 .05 -.36 .33 -.36 .47 -.02",), 0.6),
    "roadster": ("oval 0 .22 .98 .26 0", "poly -.1 .02 .02 .02 .26 -.3 .2 -.3", (), 0.58),
    "wagon": ("box 0 .22 .97 .25", "poly -.93 .05 -.85 -.45 .35 -.45 .58 .05", ("poly -.78 0 -.73 -.32 -.35 -.32 -.35 0", "box -.08 -.16 .2 .16", "poly .2 0 .2 -.32 .3 -.32 .42 0"), 0.58),
    "bus": ("box 0 .15 .97 .38", "box 0 -.45 .97 .36", ("box -.68 -.45 .18 .2", "box -.22 -.45 .18 .2", "box .24 -.45 .18 .2", "box .7 -.45 .16 .2"), 0.58),
    "coupe": ("poly -.98 .42 -.98 .05 .3 -.02 .98 .18 .98 .42", "poly -.9 .05 -.2 -.4 .15 -.4 .62 .05", ("poly -.5 .02 -.15 -.28 .1 -.28 .38 .02",), 0.58),
}  # fmt: skip


def _bird(a: Attributes) -> list[str]:
    tall, broad = (0.4, 0.46) if a["shape"] == "round" else (0.26, 0.52)
    strokes = [*_TAILS[a["tail"]], "line -.05 .4 -.08 .88 .04 black", "line .15 .4 .15 .88 .04 black"]
    strokes += ["poly .3 -.4 .55 -.4 .3 -.92 {head}"] if a["crest"] == "tall" else []
    strokes += [f"oval 0 .12 {broad} {tall} -18 {{body}}", f"oval .16 .26 {broad * 0.55} {tall * 0.55} -18 {{belly}}"]
    strokes += ["oval -.14 .08 .32 .17 16 {wing}", *_BEAKS[a["beak"]], "disc .42 -.26 .26 {head}"]
    return [*strokes, "disc .5 -.3 .08 white", "disc .51 -.3 .05 black"]


def _flower(a: Attributes) -> list[str]:
    radius = 0.74 if a["size"] == "large" else 0.56
    num, edge = _PETAL_NUMBER[a["petals"]], _PETAL_EDGE[a["edge"]]
    strokes = ["line 0 0 0 .98 .05 green"]
    strokes += ["oval -.26 .74 .25 .1 25 green", "oval .26 .74 .25 .1 -25 green"] if a["leaves"] == "pair" else []
    strokes += [f"petals 0 -.18 {radius} {num} {edge} {{outer}}"]
    strokes += [f"petals 0 -.18 {radius * 0.62} {num} {edge} {{inner}}"] if a["inner"] != "none" else []
    return [*strokes, "disc 0 -.18 .17 {heart}"]


def _car(a: Attributes) -> list[str]:
    lower, upper, windows, wheel = _CARS[a["kind"]]
    roof = "black" if a["roof"] == "none" else a["roof"]
    strokes = [f"{upper} {roof}", f"{lower} {{paint}}", *(f"{window} sky" for window in windows)]
    strokes += ["box 0 .2 .9 .08 {band}"] if a["band"] != "none" else []
    strokes += ["disc .88 .1 .06 yellow"]
    for x in (-wheel, wheel):
        strokes += [f"disc {x} .48 .25 rubber", f"disc {x} .48 .13 {{wheel}}"]
    return strokes


_FOREWINGS = {
    "round": "oval {x}.5 -.25 .5 .36 {turn}35 {{fore}}",
    "pointed": "poly {x}.03 .12 {x}.97 -.85 {x}.88 .12 {{fore}}",
    "narrow": "oval {x}.5 -.32 .52 .19 {turn}45 {{fore}}",
}
_HORNS = {
    "none": [],
    "single": ["line 0 -.75 0 -.98 .07 black"],
    "forked": ["line 0 -.7 -.3 -.98 .06 black", "line 0 -.7 .3 -.98 .06 black"],
}


def _butterfly(a: Attributes) -> list[str]:
    strokes = []
    for x, turn, back in (("-", "", "-"), ("", "-", "")):
        strokes += [f"line {x}.4 .5 {x}.62 .97 .07 {{hind}}"] if a["tail"] == "long" else []
        strokes += [f"oval {x}.4 .4 .38 .3 {back}35 {{hind}}", _FOREWINGS[a["wing"]].format(x=x, turn=turn)]
        strokes += [f"disc {x}.58 -.3 .17 {{spot}}"] if a["spot"] != "none" else []
        strokes += [f"line {x}.03 -.4 {x}.25 -.85 .03 black"]
    return [*strokes, "oval 0 .08 .11 .55 0 {body}"]


def _beetle(a: Attributes) -> list[str]:
    broad = 0.56 if a["shape"] == "round" else 0.36
    strokes = [f"line -.9 {y - 0.1} .9 {y + 0.1} .04 black" for y in (-0.25, 0.2, 0.6)]
    strokes += [*_HORNS[a["horn"]], "disc 0 -.66 .2 {head}", f"oval 0 .22 {broad} .68 0 {{shell}}"]
    if a["pattern"] == "band":
        strokes += [f"box 0 .2 {broad * 0.95:.3f} .13 {{mark}}"]
    elif a["pattern"] == "spots":
        strokes += [f"disc {x * broad * 0.5:.3f} {y} .12 {{mark}}" for x in (-1, 1) for y in (0.0, 0.42)]
    elif a["pattern"] == "cross":
        strokes += [f"box 0 .2 {broad * 0.95:.3f} .08 {{mark}}", "box 0 .2 .09 .62 {mark}"]
    return [*strokes, f"oval 0 -.4 {broad * 0.75:.3f} .22 0 {{thorax}}"]


_FAMILIES = {"bird": _bird, "flower": _flower, "car": _car, "butterfly": _butterfly, "beetle": _beetle}


def species_strokes(family: str, attributes: Attributes) -> list[str]:
    """The strokes of one species of a family of `DOMAINS`."""
    return [stroke.format_map(attributes) for stroke in _FAMILIES[family](attributes)]


def random_attributes(family: str, rng: np.random.Generator) -> dict[str, str]:
    """Attributes of a species that has no name, for teaching models what words such as `forked tail` look like."""
    return {key: str(rng.choice(values)) for key, values in DOMAINS[family].items()}


def describe(family: str, a: Attributes, rng: np.random.Generator) -> str:
    """A caption that names two to four of the attributes and never a species."""
    if family == "bird":
        facts = [f"{a['wing']} wings", f"a {a['head']} head", f"a {a['belly']} belly", f"a {a['beak']} beak"]
        facts += [f"a {a['tail']} tail"] + (["a tall crest"] if a["crest"] == "tall" else [])
        start = f"a {a['shape']} {a['body']} bird with "
    elif family == "flower":
        facts = [f"{a['petals']} {a['edge']} petals", f"a {a['heart']} heart"]
        facts += [f"a {a['inner']} inner ring"] if a["inner"] != "none" else []
        facts += ["leaves"] if a["leaves"] == "pair" else []
        start = f"a {a['size']} {a['outer']} flower with "
    else:
        facts = [f"{a['wheel']} wheels"] + ([f"a {a['roof']} roof"] if a["roof"] != "none" else [])
        facts += [f"a {a['band']} band"] if a["band"] != "none" else []
        start = f"a {a['paint']} {a['kind']} car with "
    picked = rng.permutation(len(facts))[: int(rng.integers(1, 4))]
    return start + " and ".join(facts[i] for i in picked)


def describe_strokes(strokes: Sequence[str], rng: np.random.Generator) -> str:
    """A caption that names two or three of an object's parts, with their colours where these are fixed."""
    parts = []
    for place in rng.permutation(len(strokes))[: int(rng.integers(2, 4))]:
        shape, *_, colour = strokes[place].split()
        parts.append(f"a {colour} {shape}" if colour in PAINTS else f"a {shape}")
    return "a thing made of " + " and ".join(parts)
