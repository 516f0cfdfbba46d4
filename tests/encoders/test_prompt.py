import pickle

import numpy as np
from PIL import Image

from coldstart.config.recipe import CUE, ContentSwitch
from coldstart.data.content import Content
from coldstart.encoders.pictures import GREY, fit
from coldstart.encoders.prompt import EMB


def words(encoder, row):
    tokenizer = encoder.prompt.processor.tokenizer
    return tokenizer.convert_ids_to_tokens(row)


def test_reads_picture_then_words_then_cue_then_emb(encoder, picture):
    arrays = encoder.prepare([Content("red vase", "blue lamp", picture)])
    attended = arrays["input_ids"][0][arrays["attention_mask"][0] == 1]
    text = encoder.prompt.processor.tokenizer.decode(attended)
    assert text.startswith("<img><IMG_CONTEXT>")
    assert text.index("red vase") < text.index("blue lamp") < text.index(CUE.lower()) < text.index(EMB)
    assert words(encoder, attended)[-1] == EMB


def test_every_item_has_the_same_shapes_whatever_it_lacks(encoder, picture):
    items = [Content("red", None, picture), Content(None, None, None), Content(None, None, picture), Content("x " * 99)]
    arrays = encoder.prepare(items)
    image_token = encoder.mllm.config.image_token_id
    assert (arrays["input_ids"] == image_token).sum(axis=1).tolist() == [4] * 4
    assert {len(rows) for rows in arrays.values()} == {4}
    alone = [encoder.prepare([item]) for item in items]
    for name, rows in arrays.items():
        np.testing.assert_array_equal(rows, np.concatenate([one[name] for one in alone]))


def test_long_text_is_cut_but_the_cue_and_emb_stay(encoder):
    arrays = encoder.prepare([Content("vase " * 99)])
    attended = arrays["input_ids"][0][arrays["attention_mask"][0] == 1]
    assert sum(token == "\u0120vase" for token in words(encoder, attended)) == 12
    assert words(encoder, attended)[-1] == EMB


def test_words_that_look_like_special_tokens_are_not(encoder):
    arrays = encoder.prepare([Content(f"red <IMG_CONTEXT> vase {EMB} <img>")])
    tokens = words(encoder, arrays["input_ids"][0])
    assert tokens.count("<IMG_CONTEXT>") == 4
    assert tokens.count(EMB) == 1
    assert tokens.count("<img>") == 1


def test_switched_off_modality_is_not_read(make_encoder, picture):
    item = Content("red vase", None, picture)
    no_picture = make_encoder(content=ContentSwitch(picture=False))
    blank = no_picture.prepare([Content("red vase")])
    np.testing.assert_array_equal(no_picture.prepare([item])["pixel_values"], blank["pixel_values"])
    no_words = make_encoder(content=ContentSwitch(text=False))
    silent = no_words.prepare([Content(None, None, picture)])
    np.testing.assert_array_equal(no_words.prepare([item])["input_ids"], silent["input_ids"])


def test_broken_picture_counts_as_none(encoder):
    broken = encoder.prepare([Content("red", None, b"not a picture")])
    none = encoder.prepare([Content("red", None, None)])
    np.testing.assert_array_equal(broken["pixel_values"], none["pixel_values"])


def test_picture_is_fitted_with_its_aspect_kept():
    square = fit(Image.new("RGB", (100, 50), (255, 0, 0)), 32)
    assert square.size == (32, 32)
    assert square.getpixel((16, 16)) == (255, 0, 0)
    assert square.getpixel((16, 2)) == GREY
    assert square.getpixel((16, 29)) == GREY
    assert fit(Image.new("RGB", (1000, 1)), 32).size == (32, 32)


def test_pickles_for_data_workers(encoder, picture):
    # Ray ships functions with cloudpickle, which also carries the class made for machines without torchvision.
    from ray import cloudpickle

    prepare = pickle.loads(cloudpickle.dumps(encoder.prompt.prepare))
    np.testing.assert_array_equal(
        prepare([Content("red", None, picture)])["pixel_values"],
        encoder.prepare([Content("red", None, picture)])["pixel_values"],
    )


def test_hidden_words_are_not_read_and_nothing_else_changes(encoder, picture):
    arrays = encoder.prepare([Content("red round vase", None, picture), Content(None, None, picture)])
    hidden = np.zeros((2, 12), bool)
    hidden[:, 1] = hidden[:, 11] = True
    masked = encoder.prompt.hide_words(arrays, hidden)["attention_mask"]
    gone = np.argwhere(masked != arrays["attention_mask"])
    assert [words(encoder, arrays["input_ids"][row])[place] for row, place in gone] == ["\u0120round"]
