import pickle

import numpy as np
from PIL import Image

from coldstart.config.recipe import INSTRUCTION, Modalities
from coldstart.data.content import Content
from coldstart.encoders.image_preprocessing import GRAY, pad_to_square
from coldstart.encoders.prompt import EMB


def tokens(encoder, row):
    tokenizer = encoder.prompt.processor.tokenizer
    return tokenizer.convert_ids_to_tokens(row)


def test_order_is_image_text_instruction_emb(encoder, image):
    arrays = encoder.prepare([Content("red vase", "blue lamp", image)])
    attended = arrays["input_ids"][0][arrays["attention_mask"][0] == 1]
    text = encoder.prompt.processor.tokenizer.decode(attended)
    assert text.startswith("<img><IMG_CONTEXT>")
    assert text.index("red vase") < text.index("blue lamp") < text.index(INSTRUCTION.lower()) < text.index(EMB)
    assert tokens(encoder, attended)[-1] == EMB


def test_every_item_has_the_same_shapes_whatever_is_missing(encoder, image):
    items = [Content("red", None, image), Content(None, None, None), Content(None, None, image), Content("x " * 99)]
    arrays = encoder.prepare(items)
    image_token = encoder.mllm.config.image_token_id
    assert (arrays["input_ids"] == image_token).sum(axis=1).tolist() == [4] * 4
    assert {len(rows) for rows in arrays.values()} == {4}
    alone = [encoder.prepare([item]) for item in items]
    for name, rows in arrays.items():
        np.testing.assert_array_equal(rows, np.concatenate([one[name] for one in alone]))


def test_long_text_is_cut_but_instruction_and_emb_stay(encoder):
    arrays = encoder.prepare([Content("vase " * 99)])
    attended = arrays["input_ids"][0][arrays["attention_mask"][0] == 1]
    assert sum(token == "\u0120vase" for token in tokens(encoder, attended)) == 12
    assert tokens(encoder, attended)[-1] == EMB


def test_text_cannot_inject_special_tokens(encoder):
    arrays = encoder.prepare([Content(f"red <IMG_CONTEXT> vase {EMB} <img>")])
    found = tokens(encoder, arrays["input_ids"][0])
    assert found.count("<IMG_CONTEXT>") == 4
    assert found.count(EMB) == 1
    assert found.count("<img>") == 1


def test_a_disabled_modality_is_not_used(make_encoder, image):
    item = Content("red vase", None, image)
    without_image = make_encoder(content=Modalities(use_image=False))
    blank = without_image.prepare([Content("red vase")])
    np.testing.assert_array_equal(without_image.prepare([item])["pixel_values"], blank["pixel_values"])
    without_text = make_encoder(content=Modalities(use_text=False))
    image_only = without_text.prepare([Content(None, None, image)])
    np.testing.assert_array_equal(without_text.prepare([item])["input_ids"], image_only["input_ids"])


def test_a_broken_image_counts_as_missing(encoder):
    broken = encoder.prepare([Content("red", None, b"not an image")])
    none = encoder.prepare([Content("red", None, None)])
    np.testing.assert_array_equal(broken["pixel_values"], none["pixel_values"])


def test_an_image_is_scaled_with_its_aspect_ratio():
    square = pad_to_square(Image.new("RGB", (100, 50), (255, 0, 0)), 32)
    assert square.size == (32, 32)
    assert square.getpixel((16, 16)) == (255, 0, 0)
    assert square.getpixel((16, 2)) == GRAY
    assert square.getpixel((16, 29)) == GRAY
    assert pad_to_square(Image.new("RGB", (1000, 1)), 32).size == (32, 32)


def test_pickles_for_data_workers(encoder, image):
    # Ray ships functions with cloudpickle, which also carries the class made for machines without torchvision.
    from ray import cloudpickle

    prepare = pickle.loads(cloudpickle.dumps(encoder.prompt.prepare))
    np.testing.assert_array_equal(
        prepare([Content("red", None, image)])["pixel_values"],
        encoder.prepare([Content("red", None, image)])["pixel_values"],
    )


def test_masking_text_tokens_changes_nothing_else(encoder, image):
    arrays = encoder.prepare([Content("red round vase", None, image), Content(None, None, image)])
    hidden = np.zeros((2, 12), bool)
    hidden[:, 1] = hidden[:, 11] = True
    masked = encoder.prompt.mask_text_tokens(arrays, hidden)["attention_mask"]
    gone = np.argwhere(masked != arrays["attention_mask"])
    assert [tokens(encoder, arrays["input_ids"][row])[place] for row, place in gone] == ["\u0120round"]
