"""Texts about images: a name with its article, prompts as people write them, and captions as on the web."""

import numpy as np

SCENES = (
    "outdoors",
    "at home",
    "in the morning",
    "in the rain",
    "on holiday",
    "in the garden",
    "by the road",
    "last summer",
)
_FORMS = (
    "{a}",
    "a photo of {a}.",
    "a photo of {a}",
    "a picture of {a}",
    "an image of {a}",
    "a photo of the {c}",
    "a close-up photo of {a}",
    "a blurry photo of {a}.",
    "a good photo of {a}.",
    "a photo of one {c}.",
    "a photo of a small {c}",
    "the {c}",
)
WEB_FORMS = (
    "{c}",
    "{a} {s}",
    "my {c} {s}",
    "{c} for sale, good condition",
    "free stock image: {c}",
    "look at this {c}!",
    "img {n} {c}",
    "{c} {s} - photo gallery",
    "the best {c} of the year",
    "how to draw {a}",
    "{a}",
    "a photo of {a} {s}",
    "buy {c} online",
    "{c} wallpaper hd",
    "vintage {c}, number {n}",
)


def with_article(name: str) -> str:
    """`an apple`, `a mug`."""
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def prompt_captions(name: str, templates: list[str]) -> list[str]:
    """Every way a prompt may name a class: bare, in simple sentences with its article, and in each template."""
    article = with_article(name)
    forms = [name, *(form.format(a=article, c=name) for form in _FORMS)]
    forms += [template.format(c=name) for template in templates]
    # templates say "a {c}" for every name; people write the article that fits
    forms += [template.replace("a {c}", "{a}").format(a=article, c=name) for template in templates]
    return list(dict.fromkeys(forms))


def web_caption(name: str, rng: np.random.Generator) -> str:
    """A random web caption: a sentence, an advertisement, a file name."""
    form = WEB_FORMS[int(rng.integers(len(WEB_FORMS)))]
    scene = SCENES[int(rng.integers(len(SCENES)))]
    return form.format(c=name, a=with_article(name), s=scene, n=int(rng.integers(10, 9999)))
