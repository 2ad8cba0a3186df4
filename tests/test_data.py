"""Pairs on disk: layouts, odd names, broken files, splits, worker processes, saved learners; and
the real pairs where they are."""
import os
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import lr_find
from fastai.learner import Learner, load_learner
from PIL import Image
from torch import nn

from lowlight_nat.data.degradations import *
from lowlight_nat.data.loaders import *
from lowlight_nat.data.pairs import *
from lowlight_nat.data.pairs import data_name, default_split, split_note
from lowlight_nat.io.files import ImageError
from lowlight_nat.io.images import linear_to_srgb, read_image, srgb_to_linear, to_pil, write_image

warnings.filterwarnings('ignore', category=FutureWarning)


def picture(h=24, w=32, seed=0):
    return torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed))

def save(path, h=24, w=32, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(picture(h, w, seed), path)

def save_pairs(root, low, high, names, low_name='{}.png', high_name='{}.png'):
    for i, n in enumerate(names):
        save(root/low/low_name.format(n), seed=i)
        save(root/high/high_name.format(n), seed=i+1000)

def cut_short(path):
    "Let a file end in the middle of its pixels: its head can still be read."
    data = path.read_bytes()
    path.write_bytes(data[:len(data)//2])

def names(pairs): return [p.name for p in pairs]


# layouts and names

@pytest.fixture
def lol1(tmp_path):
    save_pairs(tmp_path, 'our485/low', 'our485/high', range(2, 42))
    save_pairs(tmp_path, 'eval15/low', 'eval15/high', [1, 22, 23])
    return tmp_path

def test_lol_v1(lol1):
    train, val, test = (find_pairs(lol1, s) for s in ('train', 'val', 'test'))
    assert sorted(map(int, names(train+val))) == list(range(2, 42)) and len(val) == 2
    assert names(test) == ['1', '22', '23'] and all('eval15' in str(p.low) for p in test)
    assert not any('eval15' in str(f) for p in train+val for f in (p.low, p.high))

def test_lol_v2(tmp_path):
    for d, n in (('Train', 20), ('Test', 4)):
        save_pairs(tmp_path, f'Real_captured/{d}/Low', f'Real_captured/{d}/Normal', range(1, n + 1),
                   'low{:05d}.png', 'normal{:05d}.png')
        save_pairs(tmp_path, f'Synthetic/{d}/Low', f'Synthetic/{d}/Normal',
                   [f'r{i:05x}{d}t' for i in range(n)])
    assert len(find_pairs(tmp_path, 'test')) == 8
    for half in ('Real_captured', 'Synthetic'):
        train, val, test = (find_pairs(tmp_path/half, s) for s in ('train', 'val', 'test'))
        assert len(train) == 19 and len(val) == 1 and len(test) == 4
        assert all(
            p.low.stem.replace('low', '') == p.high.stem.replace('normal', '')
            for p in train + val + test)

def test_layout_with_val_and_without(tmp_path):
    save_pairs(tmp_path, 'train/low', 'train/high', range(10))
    assert len(find_pairs(tmp_path, 'train')) == 9 and len(find_pairs(tmp_path, 'val')) == 1
    save_pairs(tmp_path, 'val/low', 'val/high', 'ab')
    assert len(find_pairs(tmp_path, 'train')) == 10 and names(find_pairs(tmp_path,
                                                                         'val')) == ['a', 'b']
    with pytest.raises(ValueError, match='no test pairs'): find_pairs(tmp_path, 'test')

def test_only_a_test_split(tmp_path):
    save_pairs(tmp_path, 'eval15/low', 'eval15/high', 'ab')
    assert len(find_pairs(tmp_path, 'test')) == 2
    with pytest.raises(ValueError, match='no train pairs: it lacks our485/low or our485/high'):
        find_pairs(tmp_path, 'train')

def test_folders_without_a_split(tmp_path):
    """low and high in one folder, Low and Normal, or anywhere: train and val are parts of one list,
    always the same; all gives the whole."""
    scenes = list(range(30))
    save_pairs(tmp_path/'a', 'low', 'high', scenes)
    save_pairs(tmp_path/'b', 'Low', 'Normal', scenes)
    save_pairs(tmp_path/'c', 'dark', 'light', scenes)
    for root in tmp_path/'a', tmp_path/'b', (tmp_path/'c/dark', tmp_path/'c/light'):
        train, val, whole = (find_pairs(root, s) for s in ('train', 'val', 'all'))
        assert default_split(root) == 'all' and len(whole) == 30 and set(train) | set(val) == set(
            whole) and not set(train) & set(val)
        assert names(val) == names(
            find_pairs(tmp_path/'a', 'val')
        ) and f'{len(train)} pairs to train on, {len(val)} to validate with: they are held out' in split_note(
            root)
        with pytest.raises(ValueError, match='no split'): find_pairs(root, 'test')
    assert data_name((tmp_path/'c/dark', tmp_path/'c/light')) == 'dark and light' and data_name(
        tmp_path/'a') == 'a'
    with pytest.raises(ValueError, match='Two folders are wanted'): find_pairs((tmp_path,))
    with pytest.raises(ValueError, match='none of the layouts'): find_pairs(tmp_path/'c')
    dls = LowLightDataLoaders.from_folder((tmp_path/'c/dark', tmp_path/'c/light'), bs=4, size=16,
                                          device='cpu')
    assert len(dls.train.dataset.pairs) == len(train)

def test_data_with_a_split_are_never_taken_whole(lol1):
    assert default_split(lol1) == 'val'
    with pytest.raises(ValueError, match='has a split'): find_pairs(lol1, 'all')

def test_extensions_case_blanks_and_foreign_files(tmp_path):
    for n, low, high in (('a b', 'png', 'jpg'), ('Grüße', 'webp', 'png'), ('x.y', 'PNG', 'bmp')):
        save(tmp_path/'low'/f'{n}.{low.lower()}')
        (tmp_path/'low'/f'{n}.{low.lower()}').rename(tmp_path/'low'/f'{n}.{low}')
        save(tmp_path/'high'/f'{n}.{high}')
    for f in ('Thumbs.db', '.DS_Store', '._a b.png', 'list.txt'):
        (tmp_path/'low'/f).write_bytes(b'x')
    assert sorted(names(pair_folders(tmp_path/'low', tmp_path/'high'))) == ['Grüße', 'a b', 'x.y']

def test_numbers_are_sorted_by_value(tmp_path):
    save_pairs(tmp_path, 'low', 'high', [10, 9, 1, '2b', 'c'])
    assert names(pair_folders(tmp_path/'low', tmp_path/'high')) == ['1', '2b', '9', '10', 'c']

def test_missing_partners_are_named_at_most_ten(tmp_path):
    save_pairs(tmp_path, 'low', 'high', range(30))
    for i in range(5, 18): (tmp_path/'high'/f'{i}.png').unlink()
    (tmp_path/'low'/'3.png').unlink()
    with pytest.raises(ValueError) as e: pair_folders(tmp_path/'low', tmp_path/'high')
    text = str(e.value)
    assert all(o in text for o in ('13 in', '14.png and 3 more', '3.png'))
    assert '15.png' not in text and '\n' not in text

def test_unknown_layout_is_one_sentence_that_says_what_is_read(tmp_path):
    with pytest.raises(ValueError) as e: find_pairs(tmp_path)
    assert all(o in str(e.value) for o in ('our485', 'eval15', 'Real_captured', 'Synthetic',
                                           'train/{low,high}')) and '\n' not in str(e.value)
    with pytest.raises(FileNotFoundError, match='no folder'): find_pairs(tmp_path/'nowhere')

@pytest.mark.slow
def test_the_hold_out_is_the_same_in_every_process():
    code = ("from lowlight_nat.data.pairs import *; ps=[Pair(None,None,str(i)) for i in range(200)];"
            "print(','.join(p.name for p in hold_out(ps)[1]))")
    other = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=dict(
        os.environ, PYTHONHASHSEED='1'), capture_output=True, text=True,
                           check=True).stdout.strip().split(',')
    assert other == names(hold_out([Pair(None, None, str(i))
                                    for i in range(200)])[1]) and len(other) == 10


# broken files

def test_unequal_sizes_are_named(tmp_path):
    save_pairs(tmp_path, 'low', 'high', range(4))
    save(tmp_path/'low'/'2.png', 20, 32)
    for strict in (True, False):
        with pytest.raises(ValueError, match=r'2 \(low 20x32, high 24x32\)'):
            check_pairs(pair_folders(tmp_path/'low', tmp_path/'high'), strict)

@pytest.mark.parametrize('order,h,w', [(1, 24, 32), (3, 24, 32), (6, 32, 24), (8, 32, 24)])
def test_sizes_are_those_after_the_exif_rotation(tmp_path, order, h, w):
    exif = Image.Exif()
    exif[274] = order
    to_pil(picture()).save(tmp_path/'a.jpg', exif=exif)
    save(tmp_path/'b.png', h, w)
    assert check_pairs([Pair(tmp_path/'a.jpg', tmp_path/'b.png', 'a')])
    assert read_image(tmp_path/'a.jpg').shape == (3, h, w)

def test_a_damaged_exif_block_does_not_cost_a_pair(tmp_path):
    to_pil(picture()).save(tmp_path/'a.jpg',
                           exif=b'Exif\0\0MM\0*\0\0\0\x08\xff\xff' + bytes(range(40)))
    assert len(check_pairs([Pair(tmp_path/'a.jpg', tmp_path/'a.jpg', 'a')])) == 1

@pytest.fixture
def twelve(tmp_path):
    save_pairs(tmp_path, 'train/low', 'train/high', range(12))
    save_pairs(tmp_path, 'val/low', 'val/high', 'ab')
    return tmp_path

def test_unreadable_files_in_training_are_left_out_with_a_warning(twelve):
    (twelve/'train/low/3.png').write_bytes(b'')
    (twelve/'train/high/7.png').write_bytes(b'nonsense')
    with pytest.warns(UserWarning, match=r'2 of 12 pairs left out: .*3\.png.*7\.png'):
        dls = LowLightDataLoaders.from_folder(twelve, bs=4, size=16, device='cpu')
    assert len(dls.train.dataset.pairs) == 10

def test_a_file_that_breaks_off_is_left_out_when_it_is_met(twelve):
    cut_short(twelve/'train/low/5.png')
    dls = LowLightDataLoaders.from_folder(twelve, bs=4, size=16, items_per_epoch=48, device='cpu')
    seen = set()
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        for _b in dls.train: seen |= set(dls.last_names)
    w = [str(o.message) for o in w if 'left out' in str(o.message)]
    assert len(w) == 1 and '5.png' in w[0] and seen == {str(i) for i in range(12)}-{'5'}

@pytest.mark.parametrize('damage', [cut_short, lambda p: p.write_bytes(b'nonsense')])
def test_unreadable_files_are_refused_in_evaluation(twelve, damage):
    damage(twelve/'val/high/b.png')
    with pytest.raises(ImageError, match=r'b\.png'):
        LowLightDataLoaders.from_folder(twelve, bs=4, size=16, device='cpu')

@pytest.mark.filterwarnings('ignore')
def test_nothing_left_to_train_on(twelve):
    for f in (twelve/'train/low').iterdir(): cut_short(f)
    dls = LowLightDataLoaders.from_folder(twelve, bs=4, size=16, device='cpu')
    with pytest.raises(ImageError, match='No pair is left'): dls.one_batch()
    for f in (twelve/'train/low').iterdir(): f.write_bytes(b'x')
    with pytest.raises(ImageError, match='No pair is left'):
        LowLightDataLoaders.from_folder(twelve, bs=4, size=16, device='cpu')

def test_training_never_opens_the_test_split(lol1):
    for f in (lol1/'eval15').rglob('*.png'): f.write_bytes(b'nobody reads me')
    dls = LowLightDataLoaders.from_folder(lol1, bs=4, size=16, device='cpu')
    for b in [*dls.train, *dls.valid]: assert len(b) == 2


# data sets and loaders

def test_sixteen_bits_survive_the_cache(tmp_path):
    Image.fromarray((picture()[0]*65535).int().numpy().astype('uint16')).save(tmp_path/'a.png')
    ds = PairDataset([Pair(tmp_path/'a.png', tmp_path/'a.png', 'a')], train=False)
    assert torch.equal(ds[0][0], read_image(tmp_path/'a.png')) and torch.equal(ds[0][0], ds[0][1])
    assert len(ds[0][0].unique()) > 500

def test_the_cache_keeps_to_its_limit(twelve):
    ds = PairDataset(find_pairs(twelve), size=16, cache_gb=5*2*3*24*32/1e9).preload()
    assert len(ds._cache) == 5 and ds.room >= 0
    assert all(
        torch.equal(a, b)
        for k in range(24)
        for a, b in zip(ds.draw(k),
                        PairDataset(find_pairs(twelve), size=16).draw(k)))

def test_the_cache_is_never_written_to(twelve):
    ds = PairDataset(find_pairs(twelve), train=False)
    ds[0][0].zero_()
    assert ds[0][0].mean() > 0.1

@pytest.mark.slow
def test_worker_processes_draw_the_same(twelve):
    for make in (lambda n: LowLightDataLoaders.from_folder(
            twelve, bs=4, size=16, num_workers=n, device='cpu'), lambda n: LowLightDataLoaders.
                 from_synthetic(twelve/'train/high', bs=4, size=16, num_workers=n, device='cpu')):
        a = make(0)
        b = make(2)
        for _ in range(2):
            for x, y in zip(a.train, b.train):
                assert torch.equal(x[0], y[0]) and torch.equal(
                    x[1], y[1]) and a.last_names == b.last_names
        assert a.state_dict() == b.state_dict()

def test_looking_at_batches_and_validation_move_nothing_on(twelve):
    a, b = (LowLightDataLoaders.from_folder(twelve, bs=4, size=16, device='cpu') for _ in range(2))
    a.one_batch()
    a.train.one_batch()
    list(a.valid)
    torch.manual_seed(1)
    for x, y in zip(a.train, b.train): assert torch.equal(x[0], y[0])

def test_a_state_resumes_within_an_epoch(twelve):
    def make():
        return LowLightDataLoaders.from_folder(twelve, bs=4, size=16, items_per_epoch=40,
                                                       device='cpu')
    a = make()
    batches = [b[0] for _ in range(2) for b in a.train]
    b = make()
    for i, _x in enumerate(b.train):
        if i == 4:
            state = b.state_dict()
            break
    c = make()
    c.load_state_dict(state)
    assert torch.equal(next(iter(c.train))[0], batches[5])

def test_a_plain_torch_loader_works_too(twelve):
    ds = PairDataset(find_pairs(twelve), size=16)
    dl = torch.utils.data.DataLoader(ds, batch_size=4)
    first = [b[0] for b in dl]
    ds.set_epoch(1)
    second = [b[0] for b in dl]
    assert len(first) == 3 and not any(torch.equal(a, b) for a, b in zip(first, second))

def test_validation_of_unlike_sizes_one_by_one(tmp_path):
    save_pairs(tmp_path, 'train/low', 'train/high', range(4))
    for i, (h, w) in enumerate([(24, 32), (33, 17), (8, 8), (5, 100)]):
        for d in ('low', 'high'): save(tmp_path/'val'/d/f'{i}.png', h, w)
    dls = LowLightDataLoaders.from_folder(tmp_path, bs=2, size=16, device='cpu')
    assert [tuple(x.shape[2:]) for x, _ in dls.valid] == [(24, 32), (32, 16), (8, 8), (8, 96)]
    with pytest.raises(ValueError, match='batches of 1'):
        list(LowLightDataLoaders.from_folder(tmp_path, bs=2, size=16, val_bs=4, device='cpu').valid)
    crops = LowLightDataLoaders.from_folder(tmp_path, bs=2, size=16, val_bs=4, val_size=24,
                                            device='cpu').valid.one_batch()
    assert crops[0].shape == (4, 3, 24, 24)

def test_a_learner_trains_exports_and_loads(twelve):
    dls = LowLightDataLoaders.from_folder(twelve, bs=4, size=16, device='cpu')
    learn = Learner(dls, nn.Conv2d(3, 3, 1), loss_func=nn.L1Loss(), path=twelve,
                    metrics=nn.MSELoss())
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
        preds, targs = learn.get_preds()
        learn.get_preds(ds_idx=0)
        learn.show_results()
        learn.lr_find(show_plot=False, num_it=5)
    assert preds.shape == targs.shape == (2, 3, 24, 32)
    learn.export(twelve/'learner.pkl')
    assert len(dls.train.dataset.pairs) == 12
    again = load_learner(twelve/'learner.pkl')
    x = dls.valid.one_batch()[0]
    assert torch.equal(again.model(x), learn.model(x))

def test_the_data_block_reads_what_read_image_reads(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    for i in range(8):
        (tmp_path/'low').mkdir(exist_ok=True)
        to_pil(picture(seed=i)).save(tmp_path/'low'/f'{i}.jpg', exif=exif, quality=95)
        save(tmp_path/'high'/f'{i}.png', 32, 24)
    dls = LowLightBlock(16).dataloaders(pair_folders(tmp_path/'low', tmp_path/'high'), bs=2,
                                        num_workers=0)
    x, y = dls.one_batch()
    assert x.shape == y.shape == (2, 3, 16, 16) and dls.train_ds[0][0].size == (24, 32)
    learn = Learner(dls, nn.Conv2d(3, 3, 1), loss_func=nn.L1Loss())
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    dls.show_batch()


# the camera model

@pytest.fixture(scope='module')
def bright():
    path = Path(__file__).parents[1]/'samples/reference/astronaut.webp'
    return read_image(path)[:, :256, :256]

def seeded(seed): return torch.Generator().manual_seed(seed)

CLEAN = dict(shot=0., read=0., bits=None)

def test_without_any_loss_the_picture_comes_back(bright):
    assert torch.allclose(synthesize_low_light(bright, exposure=0., **CLEAN), bright, atol=1e-4)
    half = linear_to_srgb(srgb_to_linear(bright)/2)
    assert torch.allclose(synthesize_low_light(bright, exposure=-1., **CLEAN), half, atol=1e-6)

def test_a_seed_decides_the_darkness(bright):
    def dark(seed): return synthesize_low_light(bright, generator=seeded(seed))
    assert torch.equal(dark(7), dark(7)) and not torch.equal(dark(7), dark(8))
    drawn = random_low_light(bright, seeded(3))
    assert torch.equal(drawn, random_low_light(bright, seeded(3)))
    assert all(random_low_light(bright, seeded(i)).mean() < bright.mean() for i in range(10))

def test_levels_and_gamma(bright):
    eight = synthesize_low_light(bright, generator=seeded(7))*255
    assert torch.allclose(eight, eight.round(), atol=1e-3)
    two = synthesize_low_light(bright, exposure=0., bits=2, generator=seeded(7))
    assert len(two.unique()) == 4
    plain = synthesize_low_light(bright, **CLEAN)
    curved = synthesize_low_light(bright, gamma=2., **CLEAN)
    assert torch.allclose(curved, plain**2, atol=1e-6)

def test_noise_is_that_of_the_formula():
    "Variance a*x + b in linear light, on a flat patch"
    flat = torch.full((3, 256, 256), .5)
    light = (srgb_to_linear(flat)*2**-2.).mean()
    kw = dict(exposure=-2., shot=1e-3, read=2e-3, bits=None)
    d = srgb_to_linear(synthesize_low_light(flat, generator=seeded(0), **kw))
    assert d.mean() == pytest.approx(light.item(), abs=1e-3)
    assert d.var() == pytest.approx((1e-3*light + 2e-3**2).item(), rel=.03)

def test_cast_is_a_gain_of_light():
    flat = torch.full((3, 8, 8), .5)
    r, g, b = srgb_to_linear(synthesize_low_light(flat, cast=(2., 1., .5), **CLEAN)).mean((1, 2))
    assert (r/g).item() == pytest.approx(2, rel=1e-3)
    assert (b/g).item() == pytest.approx(.5, rel=1e-3)

def test_batches_stay_in_range_and_bad_input_is_refused(bright):
    batch = torch.stack([bright, bright.flip(-1)])
    assert synthesize_low_light(batch).shape == batch.shape
    loud = synthesize_low_light(batch, exposure=3., read=.5)
    assert 0 <= loud.min() and loud.max() <= 1
    with pytest.raises(ValueError, match='0 or more'): synthesize_low_light(bright, shot=-1.)
    with pytest.raises(ValueError, match='3,H,W'): synthesize_low_light(bright[:1])

def test_relighting_gives_no_new_white(bright):
    dark = synthesize_low_light(bright, generator=seeded(1))
    def white(x): return x.amax(0).flatten().quantile(.99)
    top = max(white(bright), linear_to_srgb(torch.tensor(.9)))
    for i in range(4):
        low, high = relight(dark, bright, seeded(i))
        assert low.shape == high.shape == bright.shape and white(high) <= top + 1e-3
        assert torch.equal(relight(dark, bright, seeded(i))[1], high)
    assert torch.allclose(relight(dark, bright, chroma=0., shade=0.)[1], bright, atol=1e-4)
    with pytest.raises(ValueError, match='of one size'): relight(dark, bright[:, :64])

def sunset():
    y, x = torch.meshgrid(torch.linspace(0, 1, 160), torch.linspace(0, 1, 240), indexing='ij')
    texture = .08*(40*x).sin()*(31*y).sin()
    sky = torch.stack([.95 - .3*y, .75 - .2*y, .55 + .2*y])
    ground = torch.stack([.35 + texture, .4 + texture, .28 + texture])
    return torch.where(y > .62 + .06*(7*x).sin(), ground, sky)

@pytest.mark.parametrize('seed', range(8))
def test_the_soft_mask_says_what_is_darkened(seed):
    x = sunset()
    m = bright_part(x, seeded(seed))
    assert 0 <= m.min() < .5 < m.max() <= 1
    low, high = backlit(x, seeded(seed))
    # how many stops darker: the brighter a place, the fewer
    stops = (srgb_to_linear(high)/srgb_to_linear(low).clamp(min=1e-3)).log2().mean(0).flatten()
    order = m.flatten().argsort()
    n = len(order)//5
    assert torch.equal(high, x)
    assert stops[order[:n]].mean() > stops[order[-n:]].mean() + .3
    low, high = night(x, seeded(seed))
    m = bright_part(x, seeded(seed), (.3, .8))
    assert torch.allclose(srgb_to_linear(high), srgb_to_linear(x)*m**2, atol=1e-4)
    assert low.mean() < high.mean() <= x.mean()
    low, high = right_already(x, seeded(seed))
    assert low is high and high.mean() >= x.mean() - 1e-6

def test_scenes_come_in_their_shares():
    x = sunset()
    many = [random_scene(x, seeded(i)) for i in range(200)]
    assert torch.equal(many[5][0], random_scene(x, seeded(5))[0])
    same = sum(low is high for low, high in many)/200
    kept = sum(low is not high and torch.equal(high, x) for low, high in many)/200
    assert abs(same - SCENES['right']) < .08
    assert abs(kept - SCENES['dark'] - SCENES['backlit']) < .1
    assert all(0 <= o.min() and o.max() <= 1 and o.isfinite().all()
               for pair in many[:20] for o in pair)
    low, high = random_scene(x, seeded(1), dict(right=1))
    assert low is high
    assert torch.equal(random_scene(x, seeded(1), dict(backlit=2))[1], x)


# folders that don't fit, blocks of numbers

def test_names_that_do_not_pair(tmp_path):
    save_pairs(tmp_path, 'low', 'high', range(1, 13))
    save(tmp_path/'one'/'99.png')
    with pytest.raises(ValueError, match=r'10\.png and 2 more'):
        pair_folders(tmp_path/'low', tmp_path/'one')
    for ending in 'png', 'jpg': save(tmp_path/'twice'/f'1.{ending}')
    with pytest.raises(ValueError, match='keep one'):
        pair_folders(tmp_path/'twice', tmp_path/'twice')
    for d, stems in dict(pre_low=['low1', 'low_school'], pre_high=['normal1', 'low_school']).items():
        for n in stems: save(tmp_path/d/f'{n}.png')
    assert names(pair_folders(tmp_path/'pre_low', tmp_path/'pre_high')) == ['1', 'low_school']
    with pytest.raises(FileNotFoundError, match='no folder'):
        pair_folders(tmp_path/'low', tmp_path/'nowhere')
    (tmp_path/'void').mkdir()
    with pytest.raises(ValueError, match='holds no pictures'):
        pair_folders(tmp_path/'low', tmp_path/'void')

def test_every_layout_names_its_folders():
    for parts in LAYOUTS.values():
        for part in parts:
            assert all(s in ('train', 'val', 'test') and len(dirs) == 2
                       for s, dirs in part.items())

def test_blocks_of_numbers_stay_together():
    scenes = [Pair(Path(f'{i}.png'), Path(f'{i}.png'), str(i)) for i in range(1, 501)]
    train, val = hold_out(scenes)
    assert set(train) | set(val) == set(scenes) and not set(train) & set(val)
    assert not {int(p.name)//10 for p in train} & {int(p.name)//10 for p in val}
    assert hold_out(scenes[::-1])[1] == val[::-1]
    assert [len(o) for o in hold_out(scenes[:2])] == [1, 1]
    with pytest.raises(ValueError, match='at least 2'): hold_out(scenes[:1])
    with pytest.raises(ValueError, match='between 0 and 1'): hold_out(scenes, 1.)

@pytest.mark.parametrize('make', ['lol1', 'real', 'synthetic'])
def test_no_pair_is_in_two_splits(tmp_path, make):
    if make == 'lol1':
        save_pairs(tmp_path, 'our485/low', 'our485/high', range(1, 25))
        save_pairs(tmp_path, 'eval15/low', 'eval15/high', range(25, 28))
    else:
        for d, n in (('Train', 24), ('Test', 3)):
            save_pairs(tmp_path, f'{d}/Low', f'{d}/Normal', [f'{i:05d}' for i in range(n)],
                       *(['low{}.png', 'normal{}.png'] if make == 'real' else []))
    train, val, test = (find_pairs(tmp_path, s) for s in ('train', 'val', 'test'))
    lows = [{p.low for p in o} for o in (train, val, test)]
    assert [len(o) for o in lows] == [22, 2, 3] and len(set.union(*lows)) == 27
    assert val == find_pairs(tmp_path, 'val')

def test_both_halves_of_lol_v2_carry_their_name(tmp_path):
    for half in 'Real_captured', 'Synthetic':
        for d in 'Train', 'Test':
            save_pairs(tmp_path, f'{half}/{d}/Low', f'{half}/{d}/Normal', range(24))
    found = find_pairs(tmp_path)
    assert {p.name.split('/')[0] for p in found} == {'Real_captured', 'Synthetic'}


# the real pairs, where LOWLIGHT_DATA names their folder

@pytest.mark.slow
def test_real_pairs_fit_together(lol_data):
    train = check_pairs(find_pairs(lol_data, 'train'))
    val = check_pairs(find_pairs(lol_data, 'val'))
    assert train and val and not {p.name for p in train} & {p.name for p in val}
    ds = PairDataset(train, size=96)
    r = []
    for k in range(40):
        l, h = (o.mean(0).flatten() for o in ds.draw(k))
        assert l.mean() < h.mean()
        r.append(torch.corrcoef(torch.stack([l, h]))[0, 1].item())
    assert sum(r)/len(r) > 0.7, 'dark and bright crops show the same scene'

@pytest.mark.slow
def test_random_darkness_covers_real_darkness(lol_data):
    def look(low, high):
        l = srgb_to_linear(low)
        h = srgb_to_linear(high)
        grain = (l[:, 1:, 1:]-l[:, 1:, :-1]-l[:, :-1, 1:]+l[:, :-1, :-1]).abs().mean()/2
        gain = l.mean((1, 2))/h.mean((1, 2))
        return [
            torch.log2(l.mean()/h.mean()), (gain[0]/gain[1]).log(), (gain[2]/gain[1]).log(),
            (grain/l.mean()).log10()
        ]
    real = []
    made = []
    for i, p in enumerate(find_pairs(lol_data)[::5]):
        low = read_image(p.low)
        high = read_image(p.high)
        real.append(torch.stack(look(low, high)))
        made.append(
            torch.stack(look(random_low_light(high,
                                              torch.Generator().manual_seed(i)), high)))
    real = torch.stack(real)
    made = torch.stack(made)
    q = torch.tensor([0.1, 0.9])
    for j, what in enumerate(['exposure in stops', 'red cast', 'blue cast', 'grain']):
        a, b = real[:, j].quantile(q)
        c, d = made[:, j].quantile(q)
        shared = (min(b, d)-max(a, c))/(b-a)
        assert shared > 0.5, f'{what}: real {a:.2f} to {b:.2f}, made {c:.2f} to {d:.2f}'


def test_synthetic_pairs_are_put_under_another_light():
    "relight=1 did nothing; and at 0 every draw is what it was"
    xs = [torch.rand(3, 48, 48) for _ in range(2)]
    kw = dict(size=32, bs=2, items_per_epoch=4, device='cpu', seed=3)
    plain, lit = (LowLightDataLoaders.from_synthetic(xs, relight=r, **kw) for r in (0, 1))
    for k in range(4):
        a, b = plain.train.dataset.draw(k)
        c, d = lit.train.dataset.draw(k)
        assert (b - d).abs().max() > .01 and not torch.equal(a, c) and torch.equal(
            lit.train.dataset.draw(k)[0], c)
    # validation stays as it is
    assert torch.equal(plain.valid.dataset.draw(0)[1], lit.valid.dataset.draw(0)[1])
    some = LowLightDataLoaders.from_synthetic(xs, relight=.5, **kw).train.dataset
    changed = [not torch.equal(some.draw(k)[1], plain.train.dataset.draw(k)[1]) for k in range(60)]
    assert 15 < sum(changed) < 45
    with pytest.raises(ValueError, match='synthetic=0.5'):
        LowLightDataLoaders.from_synthetic(xs, synthetic=.5, **kw)


# whole pictures, scenes, natural photographs

def test_whole_pictures_of_one_size():
    "Turned, made smaller, mirrored; never cut, never stretched."
    for h, w in (48, 72), (72, 48), (96, 144), (20, 30), (31, 200), (500, 30):
        x = picture(h, w)
        y = fit_picture((x*255).round().to(torch.uint8), (48, 72)).float()/255
        assert y.shape == (3, 48, 72)
        if h > w: x = x.transpose(1, 2)
        scale = min(48/x.shape[1], 72/x.shape[2], 1)
        inside = y[:, :round(x.shape[1]*scale), :round(x.shape[2]*scale)]
        assert (inside.mean((1, 2)) - x.mean((1, 2))).abs().max() < .01, (h, w)
    x = picture(48, 72)
    assert torch.equal(fit_picture(x, (48, 72)), x)
    square = picture(60, 60)
    assert fit_picture(square, (48, 72)).shape == (3, 48, 72)

def test_dark_and_bright_are_fitted_alike(tmp_path):
    for i, (h, w) in enumerate([(24, 32), (40, 20), (90, 100), (10, 12)]):
        for d in 'low', 'high': save(tmp_path/d/f'{i}.png', h, w, seed=i)
    ds = PairDataset(pair_folders(tmp_path/'low', tmp_path/'high'), size=(32, 48))
    for k in range(12):
        low, high = ds.draw(k)
        assert low.shape == (3, 32, 48) and torch.equal(low, high)
    assert not torch.equal(ds.draw(0)[0], ds.draw(4)[0])   # flips, and other pictures
    assert all(x.dtype == torch.uint8 for xs in ds._cache.values() for x in xs)

def test_scenes_keep_what_is_right():
    x = torch.linspace(0, 1, 96).expand(3, 64, 96).contiguous()
    def g(i): return torch.Generator().manual_seed(i)
    for i in range(12):
        low, high = backlit(x, g(i))
        stops = (srgb_to_linear(high)/srgb_to_linear(low).clamp(min=1e-4)).log2()
        assert torch.equal(high, x) and stops[..., 30:40].mean() > stops[..., 85:].mean() + .5
        low, high = night(x, g(i))
        assert high[..., :10].max() < .02 and low[..., :10].mean() < .03
        assert high[..., 90:].mean() > high[..., 20:30].mean() + .2
        low, high = right_already(x, g(i))
        assert low is high and (high >= x - 1e-6).all()
    with pytest.raises(KeyError): random_scene(x, g(0), dict(fog=1.))

def test_natural_photographs_beside_pairs(twelve, tmp_path):
    for i in range(5): save(tmp_path/'natural'/f'n{i}.png', 30, 40, seed=50+i)
    def make(**kw):
        return LowLightDataLoaders.from_folder(twelve, bs=4, size=(24, 32), items_per_epoch=40,
                                               natural=tmp_path/'natural', natural_share=.3,
                                               device='cpu', **kw)
    a = make()
    ds = a.train.dataset
    ks = [ds.index(k) for k in range(170)]
    # each natural one, and each pair, in passes of its own
    natural = [i for i in ks if i >= 12]
    assert len(natural) == 51
    often = Counter(natural)
    assert sorted(often.values()) == [10]*4 + [11] and sorted(often) == [*range(12, 17)]
    pairs = [i for i in ks if i < 12]
    assert all(sorted(pairs[n:n+12]) == list(range(12)) for n in range(0, 108, 12))
    assert len(a.valid.dataset.pairs) == 2
    # a state resumes
    first = [b[0] for b in a.train]
    state = a.state_dict()
    b = make()
    b.load_state_dict(state)
    again = make()
    assert torch.equal([x for x, _ in again.train][3], first[3])
    assert torch.equal(next(iter(b.train))[0], next(iter(a.train))[0])
    # as they are, pairs alone
    few = ds.some(4)
    assert len(few) == 4 and all(p.low for p in few.pairs) and ds.train and len(ds.pairs) == 17
    low = read_image(few.pairs[1].low)
    assert torch.equal(few[1][0], low) and torch.equal(few[1][0], few.draw(1)[0])

@pytest.mark.filterwarnings('ignore')
def test_broken_natural_photographs(twelve, tmp_path):
    for i in range(3): save(tmp_path/'natural'/f'n{i}.png', 30, 40, seed=50+i)
    cut_short(tmp_path/'natural/n1.png')
    kw = dict(bs=4, size=(24, 32), items_per_epoch=40, natural=tmp_path/'natural',
              natural_share=.5, device='cpu')
    dls = LowLightDataLoaders.from_folder(twelve, **kw)
    seen = set()
    for _b in dls.train: seen |= set(dls.last_names)
    assert {'n0', 'n2'} < seen and 'n1' not in seen
    for i in 0, 2: cut_short(tmp_path/f'natural/n{i}.png')
    with pytest.raises(ImageError, match='No pair is left'):
        list(LowLightDataLoaders.from_folder(twelve, **kw).train)
    with pytest.raises(ValueError, match='there are none'):
        PairDataset(find_pairs(twelve), natural_share=.5)
    with pytest.raises(ValueError, match='says nothing here'):
        SyntheticDataset([picture()], natural=[picture()], natural_share=.5)
