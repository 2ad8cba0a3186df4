"Checks of .ci/run that are not tests of their own: `python .ci/check.py command NAME | pictures IN OUT | wheel FILE FOLDER`."
import re, sys
from pathlib import Path

def command(name):
    "Print the README's command that stands below the comment `command: NAME`, one part a line."
    m = re.search(rf'<!-- command: {name} -->\n```\w+\n(.*?)\n```', Path('README.md').read_text(encoding='utf-8'), re.S)
    if not m: sys.exit(f'README.md has no block marked "command: {name}"')
    print(m[1].replace(' && ', '\n'))

def pictures(folder, out):
    "Each picture of `folder` must be in `out`: same size, not black, not flat, brighter than it was."
    from PIL import Image, ImageStat
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix in ('.png', '.jpg', '.jpeg', '.webp'))
    if not paths: sys.exit(f'no picture in {folder}')
    bad = 0
    for p in paths:
        a, b = (Image.open(o, formats=['PNG', 'JPEG', 'WEBP']) for o in (p, Path(out)/p.name))
        sa, sb = (ImageStat.Stat(o.convert('L')) for o in (a, b))
        la, lb, spread = sa.mean[0]/255, sb.mean[0]/255, sb.stddev[0]/255
        ok = a.size == b.size and lb > max(0.15, 1.3*la) and lb < 0.9 and spread > 0.05
        bad += not ok
        print(f'{p.name:16} {a.size} -> {b.size}  level {la:.3f} -> {lb:.3f}  spread {spread:.3f}  {"ok" if ok else "WRONG"}')
    if bad: sys.exit(f'{bad} of {len(paths)} pictures are wrong')

def wheel(file, folder):
    "The wheel must hold weights and commands, and what was unpacked from it into `folder` must enhance a picture."
    import zipfile
    names = zipfile.ZipFile(file).namelist()
    weights = [o for o in names if o.startswith('lowlight_nat/weights/') and o.endswith('.safetensors')]
    scripts = zipfile.ZipFile(file).read(next(o for o in names if o.endswith('entry_points.txt'))).decode()
    assert weights, 'the wheel holds no weights'
    assert all(f'{o} = lowlight_nat.cli:{o}' in scripts for o in ('lowlight_enhance', 'lowlight_train', 'lowlight_evaluate')), scripts
    assert not [o for o in names if o.split('/')[0] not in ('lowlight_nat',) and '.dist-info' not in o], names
    import lowlight_nat
    assert Path(lowlight_nat.__file__).is_relative_to(folder), f'imported {lowlight_nat.__file__}, not the wheel'
    from lowlight_nat.enhance import Enhancer
    from PIL import Image
    out = Enhancer.from_pretrained()(Image.new('RGB', (40, 24), (9, 8, 7))).image
    assert out.size == (40, 24)
    print(f'{Path(file).name}: {len(names)} files, weights {weights}, enhances from the wheel')


if __name__ == '__main__': globals()[sys.argv[1]](*sys.argv[2:])
