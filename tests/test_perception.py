"""LPIPS and FID: found, refused and named rightly with files made here, and equal to the packages
and to formulas written out."""
import hashlib

import pytest
import torch
from torch import nn

from lowlight_nat.evaluation import perceptual as perception
from lowlight_nat.evaluation.fidelity import batch_mean, gt_mean, score_pair
from lowlight_nat.evaluation.perceptual import *

pytestmark = pytest.mark.filterwarnings('ignore')
URLS = dict(
    alex='https://download.pytorch.org/models/alexnet-owt-7be5be79.pth',
    vgg='https://download.pytorch.org/models/vgg16-397923af.pth',
    squeeze='https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth',
    inception='https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth'
)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "An empty hub; whoever opens a connection fails at once"
    import socket
    import urllib.request
    def no(*args, **kwargs): raise AssertionError('a download was tried')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    for owner, name in (urllib.request,
                        'urlopen'), (torch.hub, 'download_url_to_file'), (socket.socket, 'connect'):
        monkeypatch.setattr(owner, name, no)
    (tmp_path/'hub/checkpoints').mkdir(parents=True)
    return tmp_path/'hub/checkpoints'

def publish(monkeypatch, net, file):
    "Make a file pass for the published one: under a name that ends with its own digits"
    at = file.with_name(f'{net}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth')
    monkeypatch.setitem(perception.WEIGHT_FILES, net, (file.rename(at).name,))
    return at

def random_file(net, path):
    import torchvision
    torch.manual_seed(3)
    model = dict(alex='alexnet', squeeze='squeezenet1_1', vgg='vgg16')[net]
    torch.save(
        {
            f'features.{k}': v
            for k, v in getattr(torchvision.models, model)().features.state_dict().items()
        }, path)
    return path

@pytest.fixture(scope='module')
def random_alex(tmp_path_factory):
    return random_file('alex', tmp_path_factory.mktemp('w')/'random.pth')

def pictures(n=4, size=48, seed=0):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


# where the weights are

def test_the_addresses_are_those_of_the_packages():
    "torchvision's and torch-fidelity's own"
    import torchvision.models as m
    assert {o: weights_url(o) for o in URLS} == URLS
    for net, w in dict(alex=m.AlexNet_Weights, vgg=m.VGG16_Weights,
                       squeeze=m.SqueezeNet1_1_Weights).items():
        assert w.IMAGENET1K_V1.url == URLS[net]
    inception = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3',
                                    reason='needs torch-fidelity')
    assert inception.URL_INCEPTION_V3 == URLS['inception']

@pytest.mark.parametrize('net', URLS)
def test_without_weights_one_sentence_says_what_to_put_where(hub, net):
    make = (lambda: LPIPS(net)) if net != 'inception' else InceptionFeatures
    with pytest.raises(FileNotFoundError) as e: make()
    said = str(e.value)
    assert URLS[net] in said and str(hub/URLS[net].split('/')[-1]) in said and '\n' not in said

def test_a_path_that_is_not_there_is_named(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere'): LPIPS('alex', tmp_path/'nowhere')

def test_the_cache_is_that_of_torch_and_either_name_will_do(hub, monkeypatch):
    old = hub/perception.WEIGHT_FILES['alex'][1]
    old.write_bytes(b'the older one')
    monkeypatch.setattr(perception, 'is_published', lambda *args: True)
    assert find_weights('alex') == WeightFile(old, True)
    new = hub/perception.WEIGHT_FILES['alex'][0]
    new.write_bytes(b'the newer one')
    assert find_weights('alex') == find_weights('alex', hub) == WeightFile(new, True)
    assert find_weights('alex', old) == WeightFile(old, True)

def test_a_damaged_file_in_the_cache_is_refused(hub):
    (hub/'alexnet-owt-7be5be79.pth').write_bytes(b'half a download')
    with pytest.raises(ValueError, match='damaged.*delete it and download'): LPIPS()

@pytest.mark.slow
def test_the_hash_decides_not_the_name(hub, monkeypatch, random_alex, tmp_path):
    import shutil
    at = tmp_path/'alexnet-owt-7be5be79.pth'
    shutil.copy(random_alex, at)
    d = LPIPS('alex', at)
    assert not d.published and d.name == 'distance by features of alexnet-owt-7be5be79.pth'
    publish(monkeypatch, 'alex', at).rename(tmp_path/'called_otherwise.pth')
    assert LPIPS('alex', tmp_path/'called_otherwise.pth').name == 'LPIPS (alex)'


# LPIPS

def test_published_weights_in_the_cache_are_lpips(hub, monkeypatch, random_alex):
    import shutil
    shutil.copy(random_alex, hub/'a.pth')
    publish(monkeypatch, 'alex', hub/'a.pth')
    d = LPIPS()
    x = pictures(1)
    y = pictures(1, seed=1)
    assert d.published and d.name == repr(d) == 'LPIPS (alex)' and d(x, x).item() == 0
    r = score_pair(x*.5, y, d)
    assert list(r)[4:] == ['lpips', 'lpips_gt_mean'] and r['lpips'] == pytest.approx(
        d(x*.5, y).item()) and r['lpips_gt_mean'] == pytest.approx(d(gt_mean(x*.5, y), y).item())
    assert batch_mean(d).__name__ == 'LPIPS (alex)' and batch_mean(d)(x, y).ndim == 0

def test_other_weights_never_carry_the_name(random_alex):
    d = LPIPS('alex', random_alex)
    r = score_pair(pictures(1), pictures(1, seed=1), d)
    assert not d.published and not any(
        'lpips' in o.lower() for o in (*r, d.name, repr(d), batch_mean(d, 'grey').__name__))

def test_equal_to_the_package_loading_the_same_file(hub, tmp_path):
    "It goes through torchvision, which takes what lies in the cache at its word"
    lpips = pytest.importorskip('lpips', reason='needs the package lpips')
    import torchvision
    torch.manual_seed(5)
    torch.save(torchvision.models.squeezenet1_1().state_dict(), hub/'squeezenet1_1-b8a52dc0.pth')
    theirs = lpips.LPIPS(net='squeeze', verbose=False)
    ours = LPIPS('squeeze', hub/'squeezenet1_1-b8a52dc0.pth')
    x = pictures(3)
    y = pictures(3, seed=1)
    with torch.no_grad():
        assert torch.allclose(ours(x, y),
                              theirs(x, y, normalize=True).view(-1), atol=1e-7) and ours(
                                  x, y).min() > 0

@pytest.mark.parametrize('net', ['alex', 'squeeze'])
def test_size_is_what_the_network_needs(net, tmp_path, random_alex):
    d = LPIPS(net, random_alex if net == 'alex' else random_file(net, tmp_path/'w.pth'))
    n = SMALLEST[net]
    assert d(pictures(1, n), pictures(1, n, 1)).isfinite().all()
    with pytest.raises(ValueError, match=f'at least {n} pixels'):
        d(pictures(1, n-1), pictures(1, n-1, 1))
    with pytest.raises(RuntimeError): d.model(pictures(1, n-1), pictures(1, n-1, 1))

def test_distance_grows_with_damage_and_reaches_the_picture(random_alex):
    d = LPIPS('alex', random_alex)
    x = pictures(2)
    noise = pictures(2, seed=2) - .5
    v = [d(x + a*noise, x).mean().item() for a in (0, .1, .3)]
    assert v[0] == 0 < v[1] < v[2] and torch.allclose(d(x, x + noise), d(x + noise, x))
    y = (x + noise).requires_grad_()
    d(y, x).sum().backward()
    assert y.grad.abs().sum() > 0 and all(p.grad is None for p in d.model.parameters())
    assert torch.equal(d(x[0], x[1]), d(x[:1], x[1:]))

def test_making_it_leaves_the_random_numbers_alone(random_alex):
    torch.manual_seed(0)
    a = torch.rand(1)
    torch.manual_seed(0)
    LPIPS('alex', random_alex)
    assert torch.equal(a, torch.rand(1))

@pytest.mark.parametrize('content, said', [
    ({'features.0.weight': torch.zeros(64, 3, 11, 11)}, '9 of 10 tensors'),
    (torch.zeros(3), '10 of 10'), (b'no weights', "can't be read"), (print, "can't be read")])
@pytest.mark.slow
def test_files_that_do_not_fit_end_in_one_sentence(tmp_path, content, said):
    "Among them a pickle that would run code"
    f = tmp_path/'w.pth'
    f.write_bytes(content) if isinstance(content, bytes) else torch.save(content, f)
    with pytest.raises(ValueError) as e: LPIPS('alex', f)
    assert said in str(e.value) and str(f) in str(e.value) and '\n' not in str(e.value)

@pytest.mark.slow
def test_losses_use_the_same_search(hub, monkeypatch, random_alex):
    import shutil

    from lowlight_nat.training.losses import lpips_loss, perceptual_loss
    with pytest.raises(FileNotFoundError, match='encoder_feature_loss') as e: lpips_loss()
    assert URLS['alex'] in str(e.value)
    shutil.copy(random_alex, hub/'a.pth')
    publish(monkeypatch, 'alex', hub/'a.pth')
    loss = perceptual_loss('auto')
    x = pictures(2)
    y = pictures(2, seed=1)
    assert loss.name == 'LPIPS (alex)' and loss(x, y).item() == pytest.approx(
        LPIPS()(x, y).mean().item(), rel=1e-5)


# distances between sets

tm = pytest.importorskip('torchmetrics', reason='needs torchmetrics')

class Colours(nn.Module):
    name = 'colours'
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(.5)
    def forward(self, x): return self.drop(torch.cat([x.mean((2, 3)), x.std((2, 3))], 1))

def frechet(f, g):
    "The formula, with scipy's root of a matrix"
    linalg = pytest.importorskip('scipy.linalg', reason='needs scipy')
    f = f.double().numpy()
    g = g.double().numpy()
    import numpy as np
    a = np.cov(f.T)
    b = np.cov(g.T)
    return ((f.mean(0)-g.mean(0))**2).sum() + np.trace(a + b - 2*np.real(linalg.sqrtm(a@b)))

def test_equal_to_the_formulas_whatever_the_batches():
    x = pictures(40, 16)*.8
    y = pictures(40, 16, 1)
    f = Colours().eval()
    # the dropout is off: features are put in eval mode
    whole = FrechetDistance(Colours())
    parts = FrechetDistance(Colours())
    whole.update(x, y)
    for a in x.split(7): parts.update(pred=a)
    for b in y.split(16): parts.update(targ=b)
    assert whole.value == pytest.approx(frechet(
        f(x), f(y)), rel=1e-5, abs=1e-9) and parts.value == pytest.approx(whole.value, rel=1e-9)
    whole.reset()
    whole.update(y, y)
    assert abs(whole.value) < 1e-6

def test_equal_to_torchmetrics_driving_the_same_features():
    x = pictures(30, 16)*.8
    y = pictures(30, 16, 1)
    f = Colours().eval().double()
    from torchmetrics.image.fid import FrechetInceptionDistance
    f.num_features = 6
    theirs = FrechetInceptionDistance(f, normalize=True)
    theirs.update(x.double(), real=False)
    theirs.update(y.double(), real=True)
    ours = FrechetDistance(lambda o: f(o.double()))
    ours.update(x, y)
    assert ours.value == pytest.approx(theirs.compute().item(), rel=1e-9)

def test_names_say_what_was_measured():
    def own(x):
        return x.mean((2, 3))
    names = [
        m.name for m in (FrechetDistance(Colours()), FrechetDistance(own),
                         FrechetDistance(own, adjust=gt_mean))
    ]
    assert names == [
        'Frechet distance of colours', 'Frechet distance of given features',
        'Frechet distance of given features, gt_mean'
    ]

def test_gt_mean_takes_the_exposure_out():
    y = pictures(20, 16)
    raw = FrechetDistance(Colours())
    adjusted = FrechetDistance(Colours(), adjust=gt_mean)
    for m in (raw, adjusted): m.update(y*.9, y)
    assert raw.value > 1e-3 and abs(adjusted.value) < 1e-6

def test_bad_input_ends_in_one_sentence():
    x = pictures(4, 16)
    for features, args, said in [(lambda x: x, (x, x), r'must be \(4,D\)'),
                                 (lambda x: x.mean((1, 2, 3)), (x, x), r'must be \(4,D\)'),
                                 (Colours(), (x.byte(), x), 'divide 8-bit'),
                                 (Colours(), (x[:, :1], x), r'\(B,3,H,W\)'),
                                 (Colours(), (x*float('nan'), x), 'NaN'),
                                 (lambda x: x.mean((2, 3))/0, (x, x), 'NaN or infinite')]:
        with pytest.raises(ValueError, match=said): FrechetDistance(features).update(*args)
    m = FrechetDistance(Colours())
    m.update(x[:1], x)
    with pytest.raises(ValueError, match='at least two pictures each and has 1 and 4'): m.value

def test_torchmetrics_missing_is_said(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'torchmetrics.image.fid', None)
    with pytest.raises(ImportError, match=r'needs torchmetrics.*pip install -e "\.\[metrics\]"'):
        FrechetDistance(Colours()).update(pictures(2, 16))

def test_fastai_drives_it():
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner, Metric
    class Frechet(FrechetDistance, Metric): pass
    y = pictures(21, 16)
    x = y*.7
    dl = torch.utils.data.DataLoader(list(zip(x, y)), batch_size=8)
    learn = Learner(DataLoaders(dl, dl), nn.PReLU(), loss_func=nn.L1Loss(),
                    metrics=[Frechet(Colours())])
    with learn.no_bar(), learn.no_logging():  # reset in between
        first = learn.validate()
        second = learn.validate()
    f = Colours().eval()
    assert list(first) == list(second) and list(first)[1:] == pytest.approx([frechet(f(x), f(y))],
                                                                            rel=1e-4)
    assert list(learn.metrics.attrgot('name')) == ['Frechet distance of colours']


# the network of FID

@pytest.fixture(scope='module')
def inception_file(tmp_path_factory):
    "Random weights of the right shapes"
    fidelity = pytest.importorskip('torch_fidelity.feature_extractor_inceptionv3',
                                   reason='needs torch-fidelity, which has the network')
    path = tmp_path_factory.mktemp('w')/'random.pth'
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(fidelity, 'load_state_dict_from_url', lambda *args, **kwargs: {})
        mp.setattr(nn.Module, 'load_state_dict', lambda *args, **kwargs: None)
        torch.manual_seed(0)
        model = fidelity.FeatureExtractorInceptionV3('inception-v3-compat', ['2048'])
    # or the signal dies away on its way
    torch.save({k: v*6**.5 if v.ndim == 4 else v for k, v in model.state_dict().items()}, path)
    return path

@pytest.mark.slow
def test_inception_is_fid_by_its_hash_alone(hub, monkeypatch, inception_file):
    """Its features are those of torchmetrics' own FID on the same bytes (the distance itself, of
    2,048 features, takes half a minute)"""
    from torchmetrics.image.fid import FrechetInceptionDistance
    m = FrechetDistance(path=inception_file)
    x = pictures(3, 32)
    assert m.name == 'Frechet distance of features of random.pth'
    theirs = FrechetInceptionDistance(2048, feature_extractor_weights_path=str(inception_file))
    m.update(x)
    theirs.update((x*255).round().byte(), real=False)
    assert m.tm.fake_features_sum.mean() > .01 and torch.allclose(
        m.tm.fake_features_sum, theirs.fake_features_sum, rtol=1e-4)
    monkeypatch.setattr(perception, 'is_published', lambda *args: True)
    f = InceptionFeatures(inception_file)
    assert (FrechetDistance(f).name, FrechetDistance(f, adjust=gt_mean).name) == ('FID',
                                                                                  'FID, gt_mean')

def test_another_file_is_not_inception(hub, inception_file, random_alex):
    with pytest.raises(ValueError, match='does not hold the weights of inception'):
        InceptionFeatures(random_alex)
