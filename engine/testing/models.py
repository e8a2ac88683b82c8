"""Tiny random models of the real library classes: an open_clip folder, diffusers folders, Inception, text towers, T5, BERT, BLIP-2 and safety checkers.

They load in a second through the same calls as published weights, so a test of your own pipeline needs neither a download nor a
GPU. Their outputs are random but differ from input to input. `engine.testing.generators` holds one twin per registry entry.
"""

import json
from pathlib import Path
from typing import Any


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level tokenizers (GPT-2, CLIP) write bytes as."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """A CLIP tokenizer of single letters and the word `cat`, 32 tokens long."""
    from transformers import CLIPTokenizer

    letters = byte_alphabet()
    tokens = [*letters, *(letter + "</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary, merges=[("c", "a"), ("ca", "t</w>")], pad_token=pad_token, model_max_length=32
    )


def save_inception(path: Path) -> Path:
    """Writes a random Inception in the shape of FID's as safetensors; returns the path, which `--inception` takes."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import Inception3

    from engine.evaluation.fid import INCEPTION_CLASSES

    torch.manual_seed(0)
    network = Inception3(num_classes=INCEPTION_CLASSES, aux_logits=False, init_weights=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)
    return path


def save_encoder(folder: Path, seed: int = 0, dimension: int = 16) -> Path:
    """Writes a random open_clip ViT for 32x32 images; returns its folder, which `load_encoder` takes as a name."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    tokenizer = clip_tokenizer(pad_token="!")
    config = {
        "model_cfg": {
            "embed_dim": dimension,
            "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
            "text_cfg": {
                "context_length": 32,
                "vocab_size": len(tokenizer),
                "width": 32,
                "heads": 2,
                "layers": 1,
                "hf_tokenizer_name": "tokenizer",
            },
        },
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    with torch.no_grad():  # as initialised, a text's words hardly move its embedding
        for parameter in [*model.transformer.parameters(), *model.visual.transformer.parameters()]:
            parameter.mul_(8)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def save_pipeline(folder: Path, seed: int = 0) -> Path:
    """A random Stable Diffusion pipeline for 16x16 images."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(pad_token="!")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(prediction_type="v_prediction"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def clip_text(tokenizer: Any, projection: int = 0, width: int = 16) -> Any:
    """A random CLIP text tower of this width; `projection` > 0 adds a projection to that many numbers."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        projection_dim=projection or width,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def t5_tokenizer(length: int = 64) -> Any:
    """A T5 tokenizer of printable characters and eight words."""
    import string

    from transformers import T5Tokenizer

    words = [
        "▁",
        *string.printable[:95],
        *("▁" + word for word in ("a", "the", "photo", "of", "cat", "dog", "red", "apple")),
    ]
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*special, *((word, -number / 10 - 1) for number, word in enumerate(dict.fromkeys(words)))]
    return T5Tokenizer(vocab=vocabulary, model_max_length=length, extra_ids=0)


def t5_config(tokenizer: Any, width: int = 16) -> Any:
    """Configuration of a T5 with one layer."""
    from transformers import T5Config

    return T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=width,
        num_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )


def sharpen(model: Any, factor: float = 6.0) -> Any:
    """Scales the weight matrices in place and returns the model; as initialised, all inputs give nearly the same output."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return model.eval()


def save_t5(folder: Path, seed: int = 0) -> Path:
    """Writes a random word-to-sentence T5 (strategy `category_enhancement`); returns its folder."""
    import torch
    from transformers import T5ForConditionalGeneration

    torch.manual_seed(seed)
    tokenizer = t5_tokenizer()
    sharpen(T5ForConditionalGeneration(t5_config(tokenizer)), 2.0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_bert(folder: Path, seed: int = 0) -> Path:
    """Writes a random BERT of single letters; returns its folder."""
    import string

    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(seed)
    letters = [*string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(tokens)})
    config = BertConfig(
        vocab_size=len(tokens), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    sharpen(BertModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_blip2(folder: Path, seed: int = 0) -> Path:
    """Writes a random BLIP-2 with an OPT, for 16x16 images; returns its folder."""
    import torch
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessor,
        GPT2Tokenizer,
        OPTConfig,
    )

    torch.manual_seed(seed)
    letters = byte_alphabet()
    tokens = ["<pad>", "<s>", "</s>", *letters]
    tokenizer = GPT2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=[],
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="</s>",
    )
    images = BlipImageProcessor(size={"height": 16, "width": 16})
    processor = Blip2Processor(images, tokenizer, num_query_tokens=2)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = Blip2Config(
        vision_config=Blip2VisionConfig(image_size=16, patch_size=8, **small).to_dict(),
        qformer_config=Blip2QFormerConfig(encoder_hidden_size=16, vocab_size=8, **small).to_dict(),
        text_config=OPTConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            word_embed_proj_dim=16,
            ffn_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ).to_dict(),
        num_query_tokens=2,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    sharpen(Blip2ForConditionalGeneration(config)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_classifier(folder: Path, labels: tuple[str, ...] = ("normal", "nsfw"), seed: int = 0) -> Path:
    """Writes a ViT classifier whose last layer is fitted so that bright images have the last label and dark ones the first."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(seed)
    config = ViTConfig(
        **{"image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 16, "id2label": dict(enumerate(labels)), "label2id": {}},
    )
    model = ViTForImageClassification(config).eval()
    inputs, is_bright = _bright_and_dark(seed)
    with torch.no_grad():
        states = model.vit(inputs).last_hidden_state[:, 0]
        weight, middle = _fitted(states, is_bright)
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        model.classifier.weight[-1] = weight
        model.classifier.bias[-1] = -middle
    model.save_pretrained(folder)
    _normalised(ViTImageProcessor).save_pretrained(folder)
    return folder


def save_concept_checker(folder: Path, seed: int = 0) -> Path:
    """Writes a `StableDiffusionSafetyChecker` whose first concept is fitted to bright images; its other concepts match nothing."""
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionConfig

    torch.manual_seed(seed)
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**tower, image_size=32, patch_size=16)
    model = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision.to_dict(), projection_dim=16)).eval()
    inputs, is_bright = _bright_and_dark(seed)
    with torch.no_grad():
        model.visual_projection.weight.copy_(torch.eye(16))
        states = torch.nn.functional.normalize(model.visual_projection(model.vision_model(inputs)[1]), dim=1)
        concept = states[is_bright].mean(0) - states[~is_bright].mean(0)
        cosines = torch.nn.functional.normalize(concept, dim=0) @ states.T
        model.concept_embeds[0] = concept
        model.concept_embeds_weights.fill_(2.0)
        model.concept_embeds_weights[0] = (cosines[is_bright].min() + cosines[~is_bright].max()) / 2
        model.special_care_embeds_weights.fill_(2.0)
    model.save_pretrained(folder)
    _normalised(CLIPImageProcessor).save_pretrained(folder)
    return folder


def _bright_and_dark(seed: int) -> tuple[Any, Any]:
    """32 noisy inputs `[N, 3, 32, 32]` from -1 to 1, and which of them are bright."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    is_bright = torch.arange(32) % 2 == 1
    noise = torch.rand((32, 3, 32, 32), generator=generator)
    return noise * 0.4 + torch.where(is_bright, 0.6, -1.0)[:, None, None, None], is_bright


def _fitted(states: Any, is_bright: Any) -> tuple[Any, Any]:
    """Weight `[D]` and bias of a logit that is 4 for the mean of the bright states, and -4 for that of the dark ones."""
    difference = states[is_bright].mean(0) - states[~is_bright].mean(0)
    weight = difference * 8 / difference.square().sum()
    return weight, (states[is_bright].mean(0) + states[~is_bright].mean(0)) / 2 @ weight


def _normalised(kind: Any) -> Any:
    """An image processor for 32 x 32 pixels from -1 to 1."""
    size = {"height": 32, "width": 32}
    half = [0.5, 0.5, 0.5]
    return kind(size=size, do_center_crop=False, image_mean=half, image_std=half)


def sdxl_pipeline(seed: int = 0) -> Any:
    """The text side of a random SDXL pipeline: it embeds prompts and cannot generate."""
    import torch
    from diffusers import StableDiffusionXLPipeline

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer(), clip_tokenizer(pad_token="!")
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=clip_text(tokenizer[0]),
        text_encoder_2=clip_text(tokenizer[1], projection=8),
        tokenizer=tokenizer[0],
        tokenizer_2=tokenizer[1],
        unet=None,
        scheduler=None,
    )


def flux_pipeline(seed: int = 0) -> Any:
    """The text side of a random FLUX.1 pipeline: it embeds prompts and cannot generate."""
    import torch
    from diffusers import FluxPipeline
    from transformers import T5EncoderModel

    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    return FluxPipeline(
        scheduler=None,
        vae=None,
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(t5_config(tokenizer_2)).eval(),
        tokenizer_2=tokenizer_2,
        transformer=None,
    )
