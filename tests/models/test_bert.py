"""BERT as encoder and as span reader, against transformers; MiniLM by what its sentences are nearest to."""

from __future__ import annotations

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.models.bert import BertConfig, BertEncoder, BertReader
from modelworks.models.load import load
from modelworks.models.save import save

TINY = {
    "vocab_size": 97,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 80,
    "max_position_embeddings": 40,
    "initializer_range": 0.3,
}


def random_hf(kind: str):
    import transformers

    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.BertConfig(**TINY))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(3, 97, (2, 11), generator=generator)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[1, 7:] = 0
    segments_BT = (torch.arange(11) > 4).long().expand(2, 11).contiguous()
    return ids_BT, mask_BT, segments_BT


def test_encoder_equals_transformers(batch, tmp_path):
    hf = random_hf("BertModel")
    hf.save_pretrained(tmp_path / "hf")  # with a pooler, which has no place here
    encoder = load(tmp_path / "hf", kind=BertEncoder)
    ids_BT, mask_BT, segments_BT = batch
    with torch.no_grad():
        ours = encoder(ids_BT, mask_BT, segments_BT)
        theirs = hf(ids_BT, attention_mask=mask_BT, token_type_ids=segments_BT).last_hidden_state
        plain = encoder(ids_BT)
    real = mask_BT.bool()
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-5)
    torch.testing.assert_close(plain, hf(ids_BT).last_hidden_state.detach(), rtol=0, atol=1e-5)


def test_encoder_out_of_a_masked_language_model(batch, tmp_path):
    hf = random_hf("BertForMaskedLM")
    hf.save_pretrained(tmp_path / "hf")
    with torch.no_grad():
        theirs = hf.bert(batch[0]).last_hidden_state
        torch.testing.assert_close(load(tmp_path / "hf")(batch[0]), theirs, rtol=0, atol=1e-5)


def test_reader_equals_transformers(batch, tmp_path):
    hf = random_hf("BertForQuestionAnswering")
    hf.save_pretrained(tmp_path / "hf")
    reader = load(tmp_path / "hf", kind=BertReader)
    ids_BT, mask_BT, segments_BT = batch
    with torch.no_grad():
        start_BT, end_BT = reader(ids_BT, mask_BT, segments_BT)
        theirs = hf(ids_BT, attention_mask=mask_BT, token_type_ids=segments_BT)
    real = mask_BT.bool()
    torch.testing.assert_close(start_BT[real], theirs.start_logits[real], rtol=0, atol=1e-5)
    torch.testing.assert_close(end_BT[real], theirs.end_logits[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["BertModel", "BertForQuestionAnswering"])
def test_transformers_reads_what_we_write(kind, batch, tmp_path):
    import transformers

    hf = random_hf(kind)
    hf.save_pretrained(tmp_path / "hf")
    ours = load(tmp_path / "hf")
    folder = save(ours, tmp_path / "ours")
    theirs, report = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert {name for name in report["missing_keys"] if not name.startswith("pooler")} == set()
    assert not report["unexpected_keys"]
    for name, tensor in theirs.state_dict().items():
        if not name.startswith("pooler"):
            assert torch.equal(tensor, hf.state_dict()[name]), name
    for name, tensor in load(folder).state_dict().items():
        assert torch.equal(tensor, ours.state_dict()[name]), name


def test_padding_changes_no_embedding():
    torch.manual_seed(0)
    encoder = BertEncoder(BertConfig.from_hf(TINY)).eval()
    ids_BT = torch.randint(3, 97, (1, 6))
    wide_BT = torch.cat((ids_BT, torch.zeros(1, 5, dtype=torch.long)), dim=1)
    mask_BT = (torch.arange(11) < 6).long()[None]
    with torch.no_grad():
        alone, padded = encoder.embed(ids_BT, torch.ones_like(ids_BT)), encoder.embed(wide_BT, mask_BT)
    torch.testing.assert_close(alone, padded)
    torch.testing.assert_close(alone.norm(dim=-1), torch.ones(1))


def test_a_row_of_padding_is_finite_in_bfloat16():
    encoder = BertEncoder(BertConfig.from_hf(TINY)).bfloat16()
    mask_BT = torch.tensor([[1, 1, 1], [0, 0, 0]])
    out = encoder.embed(torch.ones(2, 3, dtype=torch.long), mask_BT)
    out.float().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"hidden_act": "relu"}, "hidden_act='relu'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"num_attention_heads": 5}, "hidden_size=48 is not a multiple of num_attention_heads=5"),
        ({"vocab_size": None}, "lacks vocab_size"),
        ({"hidden_size": -1}, "hidden_size must be"),
    ],
)
def test_a_variant_that_is_not_there_is_refused(config, says):
    with pytest.raises(ConfigError, match=says):
        BertConfig.from_hf(TINY | config)


def test_minilm_equals_transformers(starter_embedder):
    import transformers

    texts = ["A cat sits on the mat.", "Ein Satz mit Umlauten: äöü", "x", "the " * 300]
    encoder = load(starter_embedder, kind=BertEncoder)
    tokens = transformers.AutoTokenizer.from_pretrained(starter_embedder)(texts, padding=True, return_tensors="pt")
    hf = transformers.AutoModel.from_pretrained(starter_embedder).eval()
    with torch.no_grad():
        theirs = hf(**tokens).last_hidden_state
        ours = encoder(tokens["input_ids"], tokens["attention_mask"])
    real = tokens["attention_mask"].bool()
    torch.testing.assert_close(ours[real], theirs[real], rtol=0, atol=1e-5)
    for text, row, mask in zip(texts, tokens["input_ids"], tokens["attention_mask"], strict=True):
        assert encoder.tokenizer.encode(text) == row[mask.bool()].tolist()


def test_minilm_knows_what_is_alike(starter_embedder):
    encoder = load(starter_embedder, kind=BertEncoder)
    texts = ["How do I reset my password?", "Steps to recover account access", "The recipe needs two eggs"]
    vectors = []
    with torch.no_grad():
        for text in texts:
            ids_BT = torch.tensor([encoder.tokenizer.encode(text)])
            vectors.append(encoder.embed(ids_BT, torch.ones_like(ids_BT))[0])
    asked, alike, other = vectors
    assert asked @ alike > 0.5 > 0.2 > asked @ other
