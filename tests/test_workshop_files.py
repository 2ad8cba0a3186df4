"What guards the chapters on files, images, pairs, fingerprints and measures, and does not teach."
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from fastcore.test import test_close as assert_close
from fastcore.test import test_eq as assert_eq
from fastcore.test import test_fail as assert_fails

from lowlight_nat.data.loaders import LowLightDataLoaders as Loaders
from lowlight_nat.data.loaders import PairDataset, PairDL, aligned_crop
from lowlight_nat.data.loaders import _pack as as_bytes
from lowlight_nat.data.loaders import _unpack as as_floats
from lowlight_nat.data.overlap import THRESHOLD, agreement, fingerprint, fingerprints, pack, unpack
from lowlight_nat.data.pairs import Pair, find_pairs, pair_folders
from lowlight_nat.evaluation import perceptual
from lowlight_nat.evaluation.fidelity import gt_mean
from lowlight_nat.evaluation.perceptual import LPIPS, WEIGHT_FILES, FrechetDistance, WeightFile, find_weights
from lowlight_nat.inference.tiling import crop_to
from lowlight_nat.io.files import ImageError, install_line, list_images, needs_extra
from lowlight_nat.io.images import read_image, write_image

SAMPLES = Path(__file__).resolve().parents[1]/'samples'
REFERENCE = SAMPLES/'reference'


# --- files and images ---

def test_a_missing_package_is_named():
    def train():
        with needs_extra('train', 'Training'): __import__('a_package_that_nobody_has')
    assert_fails(train, contains=f'Training needs a_package_that_nobody_has: {install_line("train")}.')
    with needs_extra('train', 'Training'): assert __import__('math').pi > 3

def png16(a, size):
    "A (H,W,3) uint16 array as a 16-bit PNG whose header claims another size."
    def chunk(kind, data):
        return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')
    head = size[0].to_bytes(4, 'big') + size[1].to_bytes(4, 'big') + bytes([16, 2, 0, 0, 0])
    rows = b''.join(b'\0' + r.astype('>u2').tobytes() for r in a)
    data = chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + data

def test_sentences_about_pictures_that_cannot_be_read(tmp_path):
    deep = np.zeros((6, 7, 3), np.uint16)
    (tmp_path/'empty.jpg').touch()
    (tmp_path/'notes.jpg').write_text('not a picture')
    (tmp_path/'short.png').write_bytes((SAMPLES/'coffee.png').read_bytes()[:9000])
    (tmp_path/'zero.png').write_bytes(png16(deep, (0, 6)))
    (tmp_path/'bomb.png').write_bytes(png16(deep, (50000, 50000)))
    said = {'missing.jpg': "doesn't exist", 'empty.jpg': 'empty', 'notes.jpg': 'not a picture',
            'short.png': 'cut short', 'bomb.png': 'more pixels', 'zero.png': 'zero.png', '': 'is a folder'}
    for name, part in said.items():
        with pytest.raises(ImageError) as e: read_image(tmp_path/name)
        assert part in str(e.value) and name in str(e.value)

def test_arrays_that_are_no_pictures():
    assert_fails(lambda: read_image(3), contains='int')
    assert_fails(lambda: read_image(np.zeros((0, 4, 3))), contains='no pixels')
    assert_fails(lambda: read_image(torch.zeros(2, 3, 4, 4)), contains='(2, 3, 4, 4)')
    assert_fails(lambda: read_image(torch.zeros(60, 80, 3)), contains='(60, 80, 3)')
    assert_eq(read_image(torch.ones(3, 4, 5, dtype=torch.bfloat16)), torch.ones(3, 4, 5))
    assert_eq(read_image(np.zeros((1, 1, 3), np.uint8)).shape, (3, 1, 1))


# --- pairs and loaders ---

def darkened(x): return (x/8).clamp(0, 1)

def make_pairs(folder, low, high, names):
    "Pairs of the samples in two folders."
    for i, name in enumerate(names):
        x = crop_to(read_image(list_images(REFERENCE)[i % 6]), (96, 128))
        write_image(x, folder/high/f'{name}.png')
        write_image(darkened(x), folder/low/f'{name}.png')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Twelve pairs in two folders, and six and two more in the layout of a data set."
    made = tmp_path_factory.mktemp('pairs')
    make_pairs(made, 'dark', 'light', range(1, 13))
    make_pairs(made, 'ours/train/low', 'ours/train/high', range(1, 7))
    make_pairs(made, 'ours/val/low', 'ours/val/high', range(7, 9))
    return made

@pytest.fixture(scope='module')
def pairs(folder): return pair_folders(folder/'dark', folder/'light')

@pytest.fixture(scope='module')
def broken(folder, pairs):
    "A pair whose dark file is no picture."
    path = folder/'broken.png'
    path.write_bytes(b'not a picture')
    return Pair(path, pairs[0].high, 'broken')

def test_crops_of_tiny_pictures_and_bytes():
    tiny = torch.rand(3, 1, 5)
    assert_eq([tuple(o.shape) for o in aligned_crop((tiny, tiny), 16)], [(3, 16, 16)]*2)
    coffee = read_image(SAMPLES/'coffee.png')
    assert_eq(as_floats(as_bytes(coffee)), coffee)
    assert_eq(as_bytes(tiny).dtype, torch.float32)

def test_sizes_of_data_sets(folder, pairs):
    whole = PairDataset(pairs, train=False)
    assert_eq((len(whole), len(list(whole))), (12, 12))
    assert_eq(whole[3][1], read_image(pairs[3].high))
    assert_eq(len(PairDataset(pairs, items_per_epoch=100)), 100)
    assert_eq(len(PairDataset(pairs, train=False, items_per_epoch=100)), 12)
    odd = Pair(folder/'odd.png', folder/'odd.png', 'odd')
    write_image(read_image(REFERENCE/'astronaut.webp')[:, :83, :61], odd.low)
    assert_eq(PairDataset([odd], train=False)[0][0].shape, (3, 80, 56))
    assert_eq(PairDataset([odd], size=128)[0][0].shape, (3, 128, 128))
    assert_eq(PairDataset(pairs, size=64, cache_gb=0).draw(5), PairDataset(pairs, size=64).draw(5))

def test_broken_pairs_are_left_out_in_training_only(pairs, broken):
    assert_fails(lambda: PairDataset([]), contains='at least one')
    assert_fails(lambda: PairDataset([broken], train=False)[0])
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        holed = PairDataset([*pairs, broken], size=64)
        names = {holed.pairs[holed.index(k)].name for k in range(26) if holed.draw(k)}
    assert len([o for o in w if 'broken' in str(o.message)]) == 1
    assert_eq(names, {p.name for p in pairs})
    assert_fails(lambda: Loaders.from_pairs(pairs, [broken]), contains='broken.png')

def test_a_batch_of_bright_pictures_is_one_tensor(pairs):
    alone = PairDataset(pairs, size=64, relight=.5, bright=True)
    a, b = PairDL(alone, bs=4, n=4).one_batch()
    assert_eq(a.data_ptr(), b.data_ptr())
    assert_eq(a.shape, (4, 3, 64, 64))

def test_loaders_go_on_within_an_epoch(folder):
    def made(): return Loaders.from_folder(folder/'ours', bs=4, size=64, items_per_epoch=30, device='cpu')
    full = [b[0] for b in made().train]
    stopped = made()
    for i, _ in enumerate(stopped.train):
        if i == 2: break
    assert_eq(stopped.state_dict()['draws'], 12)
    other = made()
    other.load_state_dict(stopped.state_dict())
    assert_eq(next(iter(other.train))[0], full[3])
    assert_eq(other.train.dataset.pairs, find_pairs(folder/'ours'))
    assert_eq([p.name for p in other.valid.dataset.pairs], ['7', '8'])

def test_loaders_of_folders(folder):
    val = folder/'ours/val'
    held = Loaders.from_folders(folder/'dark', folder/'light', bs=4, val_fraction=.15)
    given = Loaders.from_folders(folder/'dark', folder/'light', val/'low', val/'high')
    assert_eq((len(held.valid), len(given.valid)), (2, 2))
    assert_fails(lambda: Loaders.from_folders(folder/'dark', folder/'light', val_low=folder/'dark'),
                 contains='neither')
    mixed = Loaders.from_synthetic(REFERENCE, val_bs=6, device='cpu')
    assert_fails(lambda: mixed.valid.one_batch(), contains='batches of 1')
    assert_eq(len(held.train.new(held.train.dataset.new_empty())), 0)

def test_predictions_of_a_learner(folder):
    from fastai.callback.progress import ProgressCallback  # noqa: F401  (learn.no_bar)
    from fastai.learner import Learner
    dls = Loaders.from_folder(folder/'ours', bs=4, val_size=64, device='cpu')
    learn = Learner(dls, torch.nn.Conv2d(3, 3, 1), loss_func=torch.nn.L1Loss())
    with learn.no_bar(): preds, targs = learn.get_preds()
    assert_eq((preds.shape, targs.shape), ((2, 3, 64, 64), (2, 3, 64, 64)))


# --- fingerprints ---

def test_agreement_of_blocks_of_several_sizes():
    coffee = read_image(REFERENCE/'coffee.png')
    crop = coffee[:, 37:37+256, 101:101+256]
    small = fingerprint(coffee[:, 72:272, 172:362])
    fps = [fingerprint(crop), small, fingerprint(read_image(REFERENCE/'rocket.webp')), fingerprint(crop[:, :20, :20])]
    a = agreement(coffee, fps)
    assert_close(a, torch.cat([agreement(coffee, [o]) for o in fps]), eps=1e-5)
    assert a[0] > THRESHOLD > a[2] and a[3] == 0
    assert_eq(agreement(torch.full((3, 400, 600), .5), fps), torch.zeros(4))
    assert_eq(agreement(coffee[:, :100, :100], fps), torch.zeros(4))
    assert_eq(agreement(coffee, []).shape, (0,))

def test_packed_fingerprints():
    coffee = read_image(REFERENCE/'coffee.png')
    mixed = [fingerprint(coffee[:, :h, :w]) for h, w in ((400, 600), (200, 190), (20, 20), (400, 20))]
    packed = pack(mixed)
    assert_eq(unpack(packed), mixed)
    assert_eq(unpack(pack([])), [])
    for bad in ({}, None, 'x', packed | dict(kind='other'), packed | dict(bits=packed['bits'][:-8]),
                packed | dict(bits='?'), packed | dict(names=[])):
        assert_fails(lambda: unpack(bad), contains='make them anew')
    assert_eq([f.name for f in fingerprints(REFERENCE)],
              ['astronaut', 'camera', 'chelsea', 'coffee', 'hopper', 'rocket'])


# --- perceptual measures ---

@pytest.fixture
def hub(tmp_path):
    "A folder as torch's hub, with an empty folder for weights."
    old = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    (tmp_path/'checkpoints').mkdir()
    yield tmp_path
    torch.hub.set_dir(old)

def reason(f):
    "The sentence with which `f` stops."
    with pytest.raises((ValueError, FileNotFoundError, ImportError)) as e: f()
    return str(e.value)

def test_missing_and_damaged_weights_are_named(hub):
    for net, names in WEIGHT_FILES.items():
        said = reason(lambda: find_weights(net))
        assert perceptual.weights_url(net) in said and str(hub/'checkpoints'/names[0]) in said and '\n' not in said
    half = hub/'checkpoints/vgg16-397923af.pth'
    half.write_bytes(b'half a download')
    assert 'damaged' in reason(lambda: find_weights('vgg'))
    assert_eq(find_weights('vgg', hub/'checkpoints'), WeightFile(half, published=False))
    assert 'choose one of alex' in reason(lambda: find_weights('resnet'))
    assert WEIGHT_FILES['inception'][0] in reason(FrechetDistance)

def test_lpips_of_other_weights(hub):
    torchvision = pytest.importorskip('torchvision')
    pytest.importorskip('lpips')
    features = torchvision.models.alexnet().features.state_dict()
    torch.save({f'features.{k}': v for k, v in features.items()}, hub/'random.pth')
    d = LPIPS('alex', hub/'random.pth')
    x = torch.rand(1, 3, 64, 64)
    y = torch.rand(1, 3, 64, 64, requires_grad=True)
    d(y, x).sum().backward()
    assert y.grad.abs().sum() > 0 and all(p.grad is None for p in d.model.parameters())
    torch.save({'features.0.weight': torch.zeros(1)}, hub/'other.pth')
    (hub/'text.pth').write_text('hello')
    said = reason(lambda: LPIPS('alex', hub/'other.pth'))
    assert '10 of 10 tensors' in said and 'features.0.weight' in said
    assert "can't be read" in reason(lambda: LPIPS('alex', hub/'text.pth'))
    assert str(hub/'nowhere.pth') in reason(lambda: LPIPS('alex', hub/'nowhere.pth'))
    assert 'choose one of alex' in reason(lambda: LPIPS('inception'))

def test_frechet_distance_asks_for_enough_pictures():
    pytest.importorskip('torchmetrics')
    def colours(x): return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)
    x = torch.rand(8, 3, 16, 16)
    assert_eq(FrechetDistance(lambda x: x.mean((2, 3))).name, 'Frechet distance of given features')
    m = FrechetDistance(colours)
    assert_fails(lambda: m.value, contains='at least two pictures')
    m.update(x[:1], x[:5])
    assert_fails(lambda: m.value, contains='1 and 5')
    m.reset()
    assert_eq(m.n, [0, 0])
    assert_fails(lambda: FrechetDistance(lambda x: x).update(x[:2]), contains='must be (2,D)')
    assert_fails(lambda: FrechetDistance(colours).update((x[:2]*255).byte()), contains='255')
    assert_fails(lambda: FrechetDistance(colours, adjust=gt_mean).update(x[:2]), contains='both in one call')
