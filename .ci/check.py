"""Checks of .ci/run that are not tests of their own: `python .ci/check.py command NAME | pictures
IN OUT | bare | dist FOLDER | wheel FILE FOLDER`."""
import re
import sys
from pathlib import Path


def command(name):
    "Print the README's command that stands below the comment `command: NAME`, one part a line."
    m = re.search(rf'<!-- command: {name} -->\n```\w+\n(.*?)\n```',
                  Path('README.md').read_text(encoding='utf-8'), re.S)
    if not m: sys.exit(f'README.md has no block marked "command: {name}"')
    print(m[1].replace(' && ', '\n'))

def pictures(folder, out):
    """Each picture of `folder` must be in `out`: same size, not black, not flat, brighter than it
    was."""
    from PIL import Image, ImageStat
    paths = sorted(p for p in Path(folder).iterdir()
                   if p.suffix in ('.png', '.jpg', '.jpeg', '.webp'))
    if not paths: sys.exit(f'no picture in {folder}')
    bad = 0
    for p in paths:
        a, b = (Image.open(o, formats=['PNG', 'JPEG', 'WEBP']) for o in (p, Path(out)/p.name))
        sa, sb = (ImageStat.Stat(o.convert('L')) for o in (a, b))
        la = sa.mean[0]/255
        lb = sb.mean[0]/255
        spread = sb.stddev[0]/255
        ok = a.size == b.size and lb > max(0.15, 1.3*la) and lb < 0.9 and spread > 0.05
        bad += not ok
        print(
            f'{p.name:16} {a.size} -> {b.size}  level {la:.3f} -> {lb:.3f}  spread {spread:.3f}  '
            f'{"ok" if ok else "WRONG"}'
        )
    if bad: sys.exit(f'{bad} of {len(paths)} pictures are wrong')

def bare():
    "None of the packages that only the extras need is installed; how many there are."
    from importlib.metadata import distributions
    names = {o.metadata['Name'].lower() for o in distributions()}
    of_extras = 'fastai fasttransform torchvision matplotlib lpips ipython pandas scipy scikit-learn spacy'
    extra = sorted(names & set(of_extras.split()))
    if extra: sys.exit(f'enhancing must not need {", ".join(extra)}')
    print(f'{len(names)} packages, none of an extra')

def dist(folder):
    "A wheel and an sdist lie in the folder, hold the weights, and nothing that users don't need."
    import tarfile
    import zipfile
    wheel, sdist = (next(Path(folder).glob(o)) for o in ('*.whl', '*.tar.gz'))
    inside = {wheel: zipfile.ZipFile(wheel).namelist()}
    with tarfile.open(sdist) as tar:
        inside[sdist] = [o.name.partition('/')[2] for o in tar.getmembers() if o.isfile()]
    weights = {o.name for o in Path('lowlight_nat/weights').glob('*.safetensors')}
    for file, names in inside.items():
        size = file.stat().st_size/1e6
        absent = sorted(o for o in weights if f'lowlight_nat/weights/{o}' not in names)
        unwanted = [
            o for o in names
            if o.split('/')[0] in ('nbs', 'shared', 'samples') or o.endswith(('.ipynb', '.pyc'))
        ]
        if absent: sys.exit(f'{file.name} lacks the weights {", ".join(absent)}')
        if unwanted: sys.exit(f'{file.name} holds {", ".join(unwanted[:5])}')
        if size > 30:
            sys.exit(f'{file.name} has {size:.1f} MB, and 30 are what a user may be asked to fetch')
        print(
            f'{file.name}: {size:.1f} MB, {len(names)} files, weights {", ".join(sorted(weights))}')

def wheel(file, folder):
    """The wheel must hold weights and commands, and what was unpacked from it into `folder` must
    enhance a picture."""
    import zipfile
    names = zipfile.ZipFile(file).namelist()
    weights = [
        o for o in names if o.startswith('lowlight_nat/weights/') and o.endswith('.safetensors')
    ]
    entries = next(o for o in names if o.endswith('entry_points.txt'))
    scripts = zipfile.ZipFile(file).read(entries).decode()
    assert weights, 'the wheel holds no weights'
    assert all(f'{o} = lowlight_nat.cli:{o}' in scripts
               for o in ('lowlight_enhance', 'lowlight_train', 'lowlight_evaluate')), scripts
    foreign = [o for o in names if o.split('/')[0] != 'lowlight_nat' and '.dist-info' not in o]
    assert not foreign, foreign
    import lowlight_nat
    at = Path(lowlight_nat.__file__)
    assert at.is_relative_to(folder), f'imported {at}, not the wheel'
    from PIL import Image

    from lowlight_nat.inference.enhancer import Enhancer
    out = Enhancer.from_pretrained()(Image.new('RGB', (40, 24), (9, 8, 7))).image
    assert out.size == (40, 24)
    print(f'{Path(file).name}: {len(names)} files, weights {weights}, enhances from the wheel')


if __name__ == '__main__': globals()[sys.argv[1]](*sys.argv[2:])
