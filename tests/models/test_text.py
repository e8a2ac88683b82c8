"""Tiny random models of the real classes, saved with save_pretrained and loaded by the production path."""

from pathlib import Path

import pytest
import torch

from engine.catalog import load_dataset
from engine.models.text import load_captioner, load_sentence_writer, load_text_similarity
from engine.prompts import load_sentences, sentences
from engine.testing.data import class_image
from engine.testing.models import save_bert, save_blip2, save_t5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("text")
    return {
        "sentences": str(save_t5(root / "t5")),
        "captions": str(save_blip2(root / "blip2")),
        "similarity": str(save_bert(root / "bert")),
    }


def test_a_sentence_depends_on_its_keyword_and_seed_alone(folders: dict[str, str]):
    writer = load_sentence_writer(folders["sentences"], batch_size=4)
    keywords, seeds = ["cat", "dog", "red apple", "cat", "cat"], [1, 2, 3, 4, 1]
    together = writer.write(keywords, seeds)
    assert [writer.write([keyword], [seed])[0] for keyword, seed in zip(keywords, seeds, strict=True)] == together
    assert writer.write(keywords[::-1], seeds[::-1]) == together[::-1]
    assert together[0] == together[4] != together[3]
    assert all(len(sentence) > 0 for sentence in together)


def test_sentences_are_samples_of_the_models_own_distribution(folders: dict[str, str]):
    writer = load_sentence_writer(folders["sentences"], batch_size=200)
    model, tokenizer = writer._loaded.model, writer._loaded.processor
    inputs = tokenizer(["cat </s>"], padding="max_length", max_length=32, return_tensors="pt")
    with torch.inference_mode():
        logits = model(**inputs, decoder_input_ids=torch.zeros(1, 1, dtype=torch.long)).logits[0, -1]
    kept = logits.masked_fill(logits < logits.topk(50).values[-1], float("-inf")).softmax(0)
    first = torch.zeros(len(logits))
    from engine.models import text

    scores = logits.expand(200, -1)
    for start in range(0, 20_000, 200):
        generators = [torch.Generator().manual_seed(start + row) for row in range(200)]
        first += torch.bincount(text._sample_alone(generators)(None, scores).argmax(1), minlength=len(logits))
    assert (first[kept == 0] == 0).all()
    deviation = (kept * (1 - kept) * 20_000).sqrt()[kept > 0]
    assert ((first - 20_000 * kept)[kept > 0].abs() < 5 * deviation).all()


def test_sentences_are_different_and_kept(folders: dict[str, str], tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch):
    dataset = load_dataset(str(tiny_dataset))
    table = load_sentences(dataset, folders["sentences"], num_sentences=6, seed=1)
    assert [len(names) for names in table] == [len(set(names)) for names in table] == [6, 6, 6]
    assert load_sentences(dataset, folders["sentences"], num_sentences=4, seed=1) == [names[:4] for names in table]
    assert load_sentences(dataset, folders["sentences"], num_sentences=6, seed=2) != table
    monkeypatch.setattr(sentences, "write_sentences", lambda *_: pytest.fail("the sentences were written again"))
    assert load_sentences(dataset, folders["sentences"], num_sentences=6, seed=1) == table
    with pytest.raises(pytest.fail.Exception, match="written again"):  # another model's are others
        load_sentences(dataset, str(save_t5(tiny_dataset.parent / "t5", seed=1)), num_sentences=6, seed=1)


def test_a_keyword_that_yields_one_sentence_gives_that_one():
    class Parrot:
        batch_size = 8

        def write(self, keywords: list[str], seeds: list[int]) -> list[str]:
            return ["" if seed % 2 else keyword for keyword, seed in zip(keywords, seeds, strict=True)]

    assert sentences.write_sentences(Parrot(), "a cat", 10, 0) == ["a cat"]


def test_a_caption_depends_on_its_image_alone(folders: dict[str, str]):
    captioner = load_captioner(folders["captions"], batch_size=2)
    images = [torch.from_numpy(class_image(label, 0)).permute(2, 0, 1) for label in range(3)]
    captions = captioner.caption(images)
    assert len(captions) == 3
    assert [captioner.caption([image])[0] for image in images] == captions
    assert len(set(captions)) > 1
    assert "<image>" not in "".join(captions)


def test_likeness_is_one_for_equal_texts_and_ignores_companions(folders: dict[str, str]):
    similarity = load_text_similarity(folders["similarity"], batch_size=2)
    texts = ["a cat", "a photo of a dog", "red apple"]
    table = similarity.similarity(texts, texts)
    torch.testing.assert_close(table.diagonal(), torch.ones(3))
    assert (table - torch.eye(3)).max() < 0.999
    assert torch.equal(torch.cat([similarity.embed([text]) for text in texts]), similarity.embed(texts))
    assert similarity.embed([]).shape == (0, similarity.embed(texts).shape[1])
    states = similarity._loaded.model(**similarity._loaded.processor(["a cat"], return_tensors="pt")).last_hidden_state
    mean = torch.nn.functional.normalize(states[0].mean(0), dim=0)
    torch.testing.assert_close(similarity.embed(["a cat"])[0], mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("load", "processor", "model"),
    [
        (load_sentence_writer, "AutoTokenizer", "AutoModelForSeq2SeqLM"),
        (load_captioner, "Blip2Processor", "Blip2ForConditionalGeneration"),
        (load_text_similarity, "AutoTokenizer", "AutoModel"),
    ],
)
def test_a_hub_id_can_be_pinned_and_gives_safetensors_alone(
    load, processor: str, model: str, monkeypatch: pytest.MonkeyPatch
):
    import transformers

    asked: list[tuple[str, dict]] = []

    def offline(source: str, **named: object) -> None:
        asked.append((source, named))
        raise OSError("no connection")

    monkeypatch.setattr(getattr(transformers, processor), "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(getattr(transformers, model), "from_pretrained", offline)
    with pytest.raises(ValueError, match=r"'owner/name@abc' could not be loaded \(no connection\)"):
        load("owner/name@abc")
    ((source, named),) = asked
    assert (source, named["revision"], named["use_safetensors"]) == ("owner/name", "abc", True)
    assert "trust_remote_code" not in named


@pytest.mark.parametrize("load", [load_sentence_writer, load_captioner, load_text_similarity])
def test_what_cannot_be_loaded_says_why(load, tmp_path: Path):
    with pytest.raises(ValueError, match=r"unknown .* model 'nosuch'; (did you mean|known)"):
        load("nosuch")
    with pytest.raises(ValueError, match="has no weights"):
        load(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ValueError, match="pickled weights"):
        load(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="could not be loaded"):
        load(str(tmp_path))
