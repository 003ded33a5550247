from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelworks.core.errors import DownloadError, ModelFileError
from modelworks.models.bert import BertConfig, BertEncoder
from modelworks.models.fetch import pull
from modelworks.models.save import save
from modelworks.retrieval.embed import DEFAULT_EMBEDDER, EncoderEmbedder, batches
from modelworks.text.tokenizer import Tokenizer

WORDS = [f"word{i}" for i in range(40)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


def make_model(folder: Path, seed: int) -> Path:
    """A random encoder with a vocabulary of whole words, saved as any other model is."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
    )
    model = BertEncoder(config).eval()
    model.tokenizer = Tokenizer(backend, pad_id=0, unk_id=1)
    return save(model, folder)


def test_texts_come_back_in_order_as_unit_vectors_whatever_they_were_batched_with(model_folder: Path) -> None:
    embedder = EncoderEmbedder(str(model_folder))
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 200))) for _ in range(60)]
    together = embedder.embed(texts)
    assert together.shape == (60, embedder.dimension)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together, np.concatenate([embedder.embed([text]) for text in texts]), atol=1e-5)
    np.testing.assert_array_equal(together, embedder.embed(texts))


def test_it_is_the_mean_over_tokens_of_the_encoder(model_folder: Path) -> None:
    embedder = EncoderEmbedder(str(model_folder))
    ids = torch.tensor([[2, 4, 5, 6, 3]])
    with torch.inference_mode():
        mean_C = embedder.model(ids)[0].mean(0)
    np.testing.assert_allclose(embedder.embed([" ".join(WORDS[:3])])[0], mean_C / mean_C.norm(), atol=1e-6)


def test_a_text_is_read_up_to_the_window_and_closed(model_folder: Path) -> None:
    embedder = EncoderEmbedder(str(model_folder))
    whole = " ".join(WORDS[i % 40] for i in range(254))  # with [CLS] and [SEP] exactly the window
    assert embedder.count_tokens(whole) == embedder.max_tokens == 256
    np.testing.assert_allclose(embedder.embed([whole + " word7 word8"]), embedder.embed([whole]), atol=1e-6)
    assert np.abs(embedder.embed([whole.removesuffix(whole.split()[-1])]) - embedder.embed([whole])).max() > 1e-4


def test_nothing_and_the_empty_text(model_folder: Path) -> None:
    embedder = EncoderEmbedder(str(model_folder))
    assert embedder.embed([]).shape == (0, 24)
    assert np.isfinite(embedder.embed([""])).all()


# Fault 7: the same dimension is no proof of the same model.
def test_the_id_tells_weights_apart(model_folder: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "tiny", seed=1)
    first, second = EncoderEmbedder(str(model_folder)), EncoderEmbedder(str(other))
    assert first.dimension == second.dimension
    assert first.id != second.id
    assert first.id.startswith("tiny@")
    assert EncoderEmbedder(str(model_folder)).id == first.id


def test_it_travels_between_processes_as_its_reference(model_folder: Path) -> None:
    embedder = EncoderEmbedder(str(model_folder))
    embedder.embed(["word1"])
    copy = pickle.loads(pickle.dumps(embedder))
    assert copy.id == embedder.id
    np.testing.assert_array_equal(copy.embed(["word1"]), embedder.embed(["word1"]))


def test_a_folder_that_is_no_embedder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no embedder"):
        _ = EncoderEmbedder(str(tmp_path)).id
    with pytest.raises(ModelFileError):
        EncoderEmbedder("no/such/model").embed(["x"])


@given(lengths=st.lists(st.integers(0, 300), max_size=60), budget=st.integers(1, 2000))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    cut = list(batches(lengths, budget))
    assert sorted(i for batch in cut for i in batch) == list(range(len(lengths)))
    for batch in cut:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert padded <= budget or len(batch) == 1
    flat = [lengths[i] for batch in cut for i in batch]
    assert flat == sorted(flat, reverse=True)


def test_the_starter_embedder_agrees_with_the_oracle_and_with_sense() -> None:
    try:
        folder = pull(DEFAULT_EMBEDDER)
    except DownloadError as error:
        pytest.skip(f"the starter embedder cannot be had: {error}")
    transformers = pytest.importorskip("transformers")
    embedder = EncoderEmbedder()
    texts = [
        "A cat sleeps.",
        "Ein Käfig voller Narren",
        "The feline is dozing on the sofa.",
        "Stock prices fell sharply.",
    ]
    ours_NC = embedder.embed(texts)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder)
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        x_BTC = model(**encoded).last_hidden_state
    mask_BT1 = encoded["attention_mask"].unsqueeze(-1)
    mean_BC = (x_BTC * mask_BT1).sum(1) / mask_BT1.sum(1)
    np.testing.assert_allclose(ours_NC, torch.nn.functional.normalize(mean_BC).numpy(), atol=1e-5)
    assert ours_NC[0] @ ours_NC[2] > ours_NC[0] @ ours_NC[3] + 0.2
