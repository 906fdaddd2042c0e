"""Boxes, anchors, losses, suppression and average precision against torchvision, pycocotools and slow loops, on random boxes."""
import contextlib
import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms, sigmoid_focal_loss
from torchvision.ops import box_iou as torchvision_iou

from lessonlib.anchors import (
    BACKGROUND,
    NEITHER,
    SHAPES,
    claim_anchors,
    decode_boxes,
    encode_boxes,
    make_anchors,
    match_anchors,
    rank_in_group,
)
from lessonlib.average_precision import (
    KINDS,
    Detections,
    Truths,
    average_precisions,
    hits_coco,
    hits_voc,
    mean_average_precision,
)
from lessonlib.box_moves import MoveBoxes, crop_boxes, drop_hidden, random_windows
from lessonlib.boxes import (
    box_area,
    box_iou,
    clip_boxes,
    flip_boxes,
    pack_boxes,
    pad_boxes,
    to_centres,
    to_corners,
)
from lessonlib.core import ConfigError
from lessonlib.detection import DetectionLoss, detect, detection_losses, focal_loss, suppress

MANY = make_anchors([4, 2, 1], (.7, 1., 1.3), SHAPES)
quick = settings(max_examples=40)
seeds = st.integers(0, 2**31)


def boxes_of(*shape, seed=0, grid=0):
    """Random boxes in [-1, 1]; on a coarse grid many overlaps are equal and some boxes empty."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, 2, generator=generator) * 2 - 1
    if grid: corners = (corners * grid).round() / grid
    return corners.sort(-2).values.flatten(-2)


def batch_of(seed, bs=4, most=9, classes=5):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(1, classes + 1, (bs, most), generator=generator)
    counts = torch.randint(0, most + 1, (bs, 1), generator=generator)
    labels = labels * (torch.arange(most) < counts)
    return boxes_of(bs, most, seed=seed) * (labels > 0)[..., None], labels


# Boxes

@quick
@given(seeds, st.integers(0, 8), st.integers(0, 8), st.sampled_from([0, 2, 4]))
def test_overlaps_are_torchvisions(seed, n, m, grid):
    a, b = boxes_of(2, n, seed=seed, grid=grid), boxes_of(2, m, seed=seed + 1, grid=grid)
    found = box_iou(a, b)
    for i in range(2): assert torch.allclose(found[i], torchvision_iou(a[i], b[i]).nan_to_num(0), atol=1e-6)


def test_empty_boxes_overlap_with_nothing(): assert box_iou(torch.zeros(2, 4), torch.zeros(3, 4)).tolist() == [[0.] * 3] * 2


def test_overlaps_have_finite_gradients_at_padding():
    boxes = torch.zeros(1, 4, requires_grad=True)
    box_iou(boxes, boxes_of(3)).sum().backward()
    assert boxes.grad.isfinite().all()


@quick
@given(seeds)
def test_formats_make_round_trips(seed):
    boxes = boxes_of(3, 5, seed=seed)
    assert torch.allclose(to_corners(to_centres(boxes)), boxes, atol=1e-6)
    assert torch.equal(flip_boxes(flip_boxes(boxes)), boxes)
    assert torch.allclose(box_area(flip_boxes(boxes)), box_area(boxes), atol=1e-6)


@quick
@given(seeds)
def test_packing_keeps_what_is_real_and_its_order(seed):
    boxes, labels = batch_of(seed)
    labels = labels * (torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) < .5)
    packed, numbers = pack_boxes(boxes, labels)
    for before, kept, old, new in zip(boxes, packed, labels, numbers):
        n = int((old > 0).sum())
        assert torch.equal(before[old > 0], kept[:n]) and torch.equal(old[old > 0], new[:n])
        assert not new[n:].any() and not kept[n:].any()


def test_pictures_without_objects_make_a_batch():
    boxes, labels = pad_boxes([torch.zeros(0, 4)] * 3, [torch.zeros(0)] * 3)
    assert boxes.shape == (3, 1, 4) and labels.tolist() == [[0]] * 3
    assert pack_boxes(boxes, labels)[0].shape == (3, 1, 4)


@quick
@given(seeds, st.floats(0, 1))
def test_what_is_left_of_a_moved_box_is_what_is_seen(seed, least):
    """The clipped box, put back, is the intersection with the window; dropped is what has too little left."""
    boxes, labels = batch_of(seed)
    torch.manual_seed(seed)
    windows = random_windows(len(boxes))
    moved = crop_boxes(boxes, windows)
    _, numbers = drop_hidden(moved, labels, least)
    seen = torch.cat([torch.maximum(boxes[..., :2], windows[:, None, :2]),
                      torch.minimum(boxes[..., 2:], windows[:, None, 2:])], -1)
    assert torch.allclose(clip_boxes(moved)[labels > 0].clamp(-1, 1), crop_boxes(seen, windows)[labels > 0].clamp(-1, 1), atol=1e-4)
    share = box_area(seen) / box_area(boxes).clamp(min=1e-12)
    sure = (share - least).abs() > 1e-3
    kept = (labels > 0) & (share >= least) & (share > 0)
    if bool((sure | (labels == 0)).all()): assert numbers.bool().sum(1).tolist() == kept.sum(1).tolist()


def test_moves_keep_types_and_leave_the_validation_set_alone():
    from fastai.vision.all import TensorBBox, TensorImage, TensorMultiCategory
    boxes, labels = batch_of(3)
    batch = TensorImage(torch.rand(4, 3, 32, 32)), TensorBBox(boxes), TensorMultiCategory(labels)
    moved = MoveBoxes()(batch, split_idx=0)
    assert [type(part) for part in moved] == [TensorImage, TensorBBox, TensorMultiCategory]
    assert moved[0].shape == batch[0].shape and moved[1].abs().max() <= 1
    assert MoveBoxes()(batch, split_idx=1) is batch


def test_moves_of_pictures_without_objects():
    images, boxes, labels = torch.rand(2, 3, 16, 16), torch.zeros(2, 1, 4), torch.zeros(2, 1).long()
    assert MoveBoxes()((images, boxes, labels), split_idx=0)[2].tolist() == [[0], [0]]


# Anchors

@pytest.mark.parametrize("grids, zooms, ratios, n", [
    ([4], (1.,), ((1., 1.),), 16), ([4, 2, 1], (.7, 1., 1.3), SHAPES, 189), ([(3, 5)], (1.,), SHAPES, 45)])
def test_anchors_are_in_the_order_of_a_convolution(grids, zooms, ratios, n):
    anchors = make_anchors(grids, zooms, ratios)
    assert anchors.shape == (n, 4)
    rows, cols = (grids[0], grids[0]) if isinstance(grids[0], int) else grids[0]
    k = len(zooms) * len(ratios)
    centres = to_centres(anchors)[:rows * cols * k].view(rows, cols, k, 4)
    assert torch.allclose(centres[0, 1, :, 0], torch.full((k,), 3 / cols - 1)) # One to the right
    if rows > 1: assert torch.allclose(centres[1, 0, :, 1], torch.full((k,), 3 / rows - 1)) # One down


@quick
@given(seeds)
def test_ranks_within_groups(seed):
    rng = np.random.default_rng(seed)
    group, value = torch.tensor(rng.integers(0, 4, 20)), torch.tensor(rng.integers(0, 6, 20) / 6)
    slow = [sum((group[j] == group[i]) and (value[j] > value[i] or (value[j] == value[i] and j < i)) for j in range(20))
            for i in range(20)]
    assert rank_in_group(group, value).tolist() == [int(n) for n in slow]


def check_match(boxes, labels, anchors, match, least=.5, most=.4):
    """What must hold of any matching, anchor by anchor."""
    for image, (mine, numbers) in enumerate(zip(boxes, labels)):
        things = (numbers > 0).nonzero()[:, 0].tolist()
        row, iou = match[image].tolist(), torchvision_iou(mine, anchors).nan_to_num(0)
        assert len(set(row) & set(things)) == min(len(things), len(anchors)) # Every object has one
        assert set(row) <= {*things, BACKGROUND, NEITHER}
        for a, o in enumerate(row):
            best = max((float(iou[t, a]) for t in things), default=0.)
            if o >= 0 and iou[o, a] < best - 1e-6: assert row.count(o) >= 1 # It has claimed this one
            if best >= least + 1e-6: assert o >= 0
            if o == NEITHER: assert most - 1e-6 <= best < least + 1e-6
            if o == BACKGROUND: assert best < most + 1e-6


@quick
@given(seeds)
def test_every_object_gets_an_anchor(seed):
    boxes, labels = batch_of(seed)
    check_match(boxes, labels, MANY, match_anchors(boxes, labels, MANY))


@quick
@given(seeds, st.integers(1, 40))
def test_objects_at_the_same_place_all_get_an_anchor(seed, n):
    boxes = boxes_of(1, 1, seed=seed).expand(2, n, 4)
    labels = torch.ones(2, n).long()
    match = match_anchors(boxes, labels, MANY, 1., 1.)
    assert [sorted(row[row >= 0].tolist()) for row in match] == [list(range(n))] * 2


@quick
@given(seeds, st.integers(1, 30))
def test_more_objects_than_anchors(seed, n):
    few = make_anchors([2])
    boxes = boxes_of(n, seed=seed)
    claimed = claim_anchors(box_iou(boxes, few), torch.zeros(n).long(), boxes, few)
    assert (claimed >= 0).sum() == len(set(claimed[claimed >= 0].tolist())) == min(n, 4)


@quick
@given(seeds)
def test_the_claims_of_objects_in_conflict_go_to_the_larger_overlap(seed):
    boxes = boxes_of(6, seed=seed)
    iou = box_iou(boxes, MANY)
    claimed = claim_anchors(iou, torch.zeros(6).long(), boxes, MANY).tolist()
    for a in iou.argmax(1).unique().tolist():
        wanting = [o for o in range(6) if int(iou[o].argmax()) == a]
        assert claimed.index(a) == max(wanting, key=lambda o: float(iou[o, a]))


def test_an_object_between_all_anchors_gets_the_nearest():
    small = make_anchors([4], (.1,))
    boxes = torch.tensor([[[.45, .45, .55, .55]]])
    match = match_anchors(boxes, torch.ones(1, 1).long(), small)
    centre = to_centres(small)[match[0].argmax(), :2]
    assert box_iou(boxes, small).max() == 0 and torch.allclose((centre - .5).abs(), torch.tensor([.25, .25]))


def test_two_hundred_objects():
    boxes, labels = boxes_of(1, 200, seed=1), torch.ones(1, 200).long()
    assert len(match_anchors(boxes, labels, MANY)[0].unique()) >= 189
    big = make_anchors([16], (.5, 1.))
    assert set(range(200)) <= set(match_anchors(boxes, labels, big)[0].tolist())


@quick
@given(seeds)
def test_offsets_make_round_trips(seed):
    boxes = boxes_of(2, len(MANY), seed=seed)
    wide = (boxes[..., 2:] - boxes[..., :2]).amin(-1) > .1
    assert torch.allclose(decode_boxes(encode_boxes(boxes, MANY), MANY)[wide], boxes[wide], atol=1e-4)


# Losses

@quick
@given(seeds, st.floats(.05, .95), st.sampled_from([0., 1., 2., 5.]))
def test_focal_loss_is_torchvisions(seed, alpha, gamma):
    torch.manual_seed(seed)
    logits, targets = torch.randn(3, 40) * 4, (torch.rand(3, 40) < .2).float()
    assert torch.allclose(focal_loss(logits, targets, alpha, gamma), sigmoid_focal_loss(logits, targets, alpha, gamma), atol=1e-5)


@quick
@given(seeds, st.integers(1, 4), st.sampled_from(["bce", "focal"]), st.sampled_from(["l1", "smooth_l1"]))
def test_the_loss_does_not_depend_on_the_size_of_the_batch(seed, times, classes, place):
    boxes, labels = batch_of(seed)
    offsets, logits = torch.randn(4, 189, 4), torch.randn(4, 189, 5)
    kinds = {"classes": classes, "place": place, "cells": .5}
    one = detection_losses(offsets, logits, boxes, labels, MANY, **kinds)
    several = detection_losses(*(torch.cat([part] * times) for part in (offsets, logits, boxes, labels)), MANY, **kinds)
    assert torch.allclose(torch.stack(one), torch.stack(several), rtol=1e-4)


@quick
@given(seeds, st.integers(0, 5))
def test_the_loss_does_not_depend_on_padding(seed, more):
    boxes, labels = batch_of(seed)
    offsets, logits = torch.randn(4, 189, 4), torch.randn(4, 189, 5)
    padded = torch.cat([boxes, torch.zeros(4, more, 4)], 1), torch.cat([labels, torch.zeros(4, more).long()], 1)
    pairs = zip(detection_losses(offsets, logits, boxes, labels, MANY), detection_losses(offsets, logits, *padded, MANY))
    for one, other in pairs: assert torch.allclose(one, other)


def test_the_loss_of_right_answers_is_small_and_of_wrong_ones_is_not():
    boxes, labels = batch_of(5)
    match = match_anchors(boxes, labels, MANY)
    right = boxes.gather(1, match.clamp(min=0)[..., None].expand(-1, -1, 4))
    offsets = encode_boxes(right, MANY)
    logits = torch.full((4, 189, 5), -12.)
    image, anchor = (match >= 0).nonzero(as_tuple=True)
    logits[image, anchor, labels[image, match[image, anchor]] - 1] = 12.
    loss = DetectionLoss(MANY)
    assert loss((offsets, logits), boxes, labels) < 1e-3
    assert loss((offsets + 1, -logits), boxes, labels) > 1


@pytest.mark.parametrize("n", [0, 1, 200])
def test_gradients_are_finite(n):
    offsets, logits = torch.zeros(2, 189, 4, requires_grad=True), torch.zeros(2, 189, 5, requires_grad=True)
    boxes, labels = boxes_of(2, max(n, 1), seed=n), torch.full((2, max(n, 1)), min(n, 1))
    sum(detection_losses(offsets, logits, boxes, labels, MANY)).backward()
    assert offsets.grad.isfinite().all() and logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


def test_unknown_losses_are_refused():
    answers = torch.zeros(1, 189, 4), torch.zeros(1, 189, 5), *batch_of(0, 1)
    with pytest.raises(ConfigError, match="expected one of bce, focal"): detection_losses(*answers, MANY, classes="softmax")
    with pytest.raises(ConfigError, match="expected 'smooth_l1'"): detection_losses(*answers, MANY, place="giou")


# Suppression

@quick
@given(seeds, st.integers(1, 60), st.sampled_from([.13, .31, .47, .71]), st.sampled_from([0, 3]))
def test_suppression_is_torchvisions(seed, n, most, grid):
    boxes = boxes_of(2, n, seed=seed, grid=grid)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, n, generator=generator)
    labels = torch.randint(1, 4, (2, n), generator=generator)
    keep = suppress(boxes, scores, labels, most)
    for i in range(2):
        theirs = [batched_nms(boxes[i][labels[i] == c], scores[i][labels[i] == c], torch.zeros(int((labels[i] == c).sum())), most)
                  for c in (1, 2, 3)]
        wanted = [(labels[i] == c).nonzero()[:, 0][kept] for c, kept in zip((1, 2, 3), theirs)]
        assert sorted(keep[i].nonzero()[:, 0].tolist()) == sorted(torch.cat(wanted).tolist())


def test_a_long_chain_of_suppression():
    x = torch.arange(60.)
    boxes = torch.stack([x * 3, 0 * x, x * 3 + 10, 0 * x + 10], 1)[None]
    keep = suppress(boxes, 1 - x[None] / 100, torch.ones(1, 60).long())
    assert keep[0].nonzero()[:, 0].tolist() == list(range(0, 60, 2))


def test_suppression_of_nothing():
    assert not suppress(torch.zeros(2, 5, 4), torch.zeros(2, 5), torch.zeros(2, 5).long()).any()
    assert suppress(torch.zeros(2, 0, 4), torch.zeros(2, 0), torch.zeros(2, 0).long()).shape == (2, 0)


@quick
@given(seeds)
def test_detections_are_sorted_padded_and_inside(seed):
    torch.manual_seed(seed)
    boxes, scores, labels = detect(torch.randn(3, 189, 4), torch.randn(3, 189, 5) - 2, MANY, least=.3)
    assert boxes.shape[:2] == scores.shape == labels.shape and boxes.abs().max() <= 1
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    assert ((labels > 0) == (scores > 0)).all() and (scores[scores > 0] >= .3).all()


# Average precision

def some_set(seed, difficult=False, n=12, most=5):
    torch.manual_seed(seed)
    corners = torch.rand(n, most, 2) * 60
    boxes = torch.cat([corners, corners + 10 + torch.rand(n, most, 2) * 40], -1)
    labels = torch.randint(0, 4, (n, most)).sort(descending=True).values
    near = torch.cat([boxes, boxes, boxes.roll(1, 0)], 1) + torch.randn(n, 3 * most, 4) * 3
    near[..., 2:] = torch.maximum(near[..., 2:], near[..., :2] + 1) # No box inside out
    claimed = torch.cat([labels, labels.clamp(min=1), labels.roll(1, 0)], 1)
    scores = torch.randperm(n * 3 * most).view(n, -1) / (n * 3 * most)
    hard = (torch.rand(labels.shape) < .3) & (labels > 0) if difficult else None
    return Detections(near, scores, claimed), Truths(boxes, labels, hard)


def coco_says(found, truth, points=None, ious=None):
    coco, evaluator = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")

    def rows(boxes, labels, scores=None):
        for i, j in labels.nonzero().tolist():
            x1, y1, x2, y2 = boxes[i, j].double().tolist()
            row = {"id": i * 100 + j + 1, "image_id": i, "category_id": int(labels[i, j]), "iscrowd": 0,
                   "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            yield row if scores is None else {**row, "score": float(scores[i, j])}

    with contextlib.redirect_stdout(io.StringIO()):
        gt = coco.COCO()
        gt.dataset = {"images": [{"id": i} for i in range(len(truth.labels))], "categories": [{"id": c} for c in (1, 2, 3)],
                      "annotations": list(rows(truth.boxes, truth.labels))}
        gt.createIndex()
        judge = evaluator.COCOeval(gt, gt.loadRes(list(rows(found.boxes, found.labels, found.scores))), "bbox")
        if points is not None: judge.params.recThrs = points
        if ious is not None: judge.params.iouThrs = np.array(ious)
        judge.evaluate()
        judge.accumulate()
    means = judge.eval["precision"][:, :, :, 0, -1].mean((0, 1))
    return np.where((judge.eval["precision"][0, 0, :, 0, -1] < 0), np.nan, means)


@settings(max_examples=25)
@given(seeds)
def test_coco_is_pycocotools(seed):
    found, truth = some_set(seed)
    assert np.allclose(average_precisions(found, truth, 3, "coco"), coco_says(found, truth), equal_nan=True, atol=1e-6)
    eleven = coco_says(found, truth, KINDS["voc07"], [.5])
    assert np.allclose(average_precisions(found, truth, 3, "voc07", rule="coco"), eleven, equal_nan=True, atol=1e-6)


@settings(max_examples=15)
@given(seeds)
def test_all_points_are_pycocotools(seed):
    found, truth = some_set(seed)
    ours = average_precisions(found, truth, 3, "voc", rule="coco")
    for c in (1, 2, 3):
        n = int((truth.labels == c).sum())
        if n: assert np.isclose(ours[c - 1], coco_says(found, truth, np.arange(1, n + 1) / n, [.5])[c - 1], atol=1e-6)


def voc_slowly(found, truth, c):
    """The devkit's rule, spelt out; None for a class without objects."""
    every = [(float(found.scores[i, j]), i, j) for i, j in (found.labels == c).nonzero().tolist()]
    used, hits = set(), []
    for _, i, j in sorted(every, reverse=True):
        mine = (truth.labels[i] == c).nonzero()[:, 0]
        iou = torchvision_iou(found.boxes[i, j][None], truth.boxes[i, mine])[0]
        k = int(mine[iou.argmax()]) if len(mine) and iou.max() >= .5 else None
        if k is not None and truth.difficult[i, k]: continue
        hits.append(k is not None and (i, k) not in used)
        if k is not None: used.add((i, k))
    n = int(((truth.labels == c) & ~truth.difficult).sum())
    if not n: return float("nan")
    precision, recall = np.cumsum(hits) / np.arange(1, len(hits) + 1), np.cumsum(hits) / n
    return float(np.mean([precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 11)]))


@quick
@given(seeds)
def test_eleven_points_with_difficult_objects_are_the_slow_way(seed):
    found, truth = some_set(seed, difficult=True)
    slow = [voc_slowly(found, truth, c) for c in (1, 2, 3)]
    assert np.allclose(average_precisions(found, truth, 3, "voc07"), slow, equal_nan=True)


@quick
@given(seeds)
def test_difficult_objects_count_neither_way(seed):
    """Nothing is both hit and passed over; without the detections of difficult objects the score is the same."""
    found, truth = some_set(seed, difficult=True)
    for rule in (hits_voc, hits_coco):
        hit, passed = (part.reshape(-1, *part.shape[-2:])[-1] for part in rule(found, truth))
        assert not (hit & passed).any()
    hit, passed = hits_voc(found, truth)
    left = Detections(found.boxes, found.scores, found.labels * ~passed)
    before, after = average_precisions(found, truth, 3), average_precisions(left, truth, 3)
    assert np.allclose(before, after, equal_nan=True)


def test_only_difficult_objects_have_no_average_precision():
    truth = Truths(torch.tensor([[[0., 0, 1, 1]]]), torch.tensor([[1]]), torch.tensor([[True]]))
    found = Detections(truth.boxes, torch.tensor([[.9]]), truth.labels)
    assert np.isnan(mean_average_precision(found, truth, 2))


def test_pictures_without_objects_and_without_detections():
    empty = Truths(torch.zeros(2, 1, 4), torch.zeros(2, 1).long())
    nothing = Detections(torch.zeros(2, 1, 4), torch.zeros(2, 1), torch.zeros(2, 1).long())
    for kind in KINDS: assert np.isnan(mean_average_precision(nothing, empty, 3, kind))


def test_false_detections_in_pictures_without_objects_count():
    truth = Truths(torch.tensor([[[0., 0, 1, 1]], [[0, 0, 0, 0]]]), torch.tensor([[1], [0]]))
    found = Detections(torch.tensor([[[0., 0, 1, 1]], [[0, 0, 1, 1]]]), torch.tensor([[.5], [.9]]), torch.ones(2, 1).long())
    assert mean_average_precision(found, truth, 1) == pytest.approx(.5)


def test_unknown_kinds_are_refused():
    found, truth = some_set(0)
    with pytest.raises(ConfigError, match="voc07, coco, voc"): average_precisions(found, truth, 3, "voc2012")
    with pytest.raises(ConfigError, match="expected 'voc' or 'coco'"): average_precisions(found, truth, 3, rule="kitti")
