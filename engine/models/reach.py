"""Whether published weights can be had, asked before a run, where a library would retry for a minute."""

import os

from engine.models.registry import encoder_source

SECONDS = 5.0
"""Longest wait for the Hub's answer."""
_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""Names under which open_clip keeps weights on the Hub."""


def check_encoder(name: str) -> None:
    """Looks for an encoder's weights on this machine, and else for the Hub that has them.

    Raises:
        ValueError: unknown encoder; its weights are not here and the Hub is out of reach.
    """
    source = encoder_source(name)
    if source.startswith("local-dir:"):
        return
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    config = open_clip.get_pretrained_cfg(*source.split("/", 1)) or {}
    if "file" in config or not (repository := os.path.split(config.get("hf_hub", ""))[0]):
        return
    own_file = os.path.split(config["hf_hub"])[1]
    if any(isinstance(try_to_load_from_cache(repository, file), str) for file in (own_file, *_FILES) if file):
        return
    if problem := hub_problem():
        raise ValueError(
            f"encoder {name!r} is not on this machine, and {problem}; download {repository} where there is a network, or give "
            "the path of an open_clip folder"
        )


def hub_problem() -> str:
    """Why the Hub cannot be asked, as part of a sentence; empty if it answers."""
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE forbids to ask the Hub"
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # of the HTTP library, whichever it is
        return f"the Hub is out of reach ({next(iter(str(error).strip().splitlines()), type(error).__name__)[:100]})"
    return ""
