"""Make what the page nbs/try.qmd loads, in the processed site: `python .ci/try_page.py [FOLDER]`.

The runtime comes from the npm packages that package.json names and package-lock.json pins, the
network from the bundled weights by `lowlight_nat.export`. Both are packed with gzip, and the page
unpacks them, so that what a visitor loads does not depend on the host. What was made is kept in
build/try/ and used again while weights and exporting code are the same. Where a package or the npm
registry is missing, the site is made without these files, and the page says so.
"""
import gzip
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT/'build'/'try'
DIST = 'node_modules/onnxruntime-web/dist'
OURS = ['try.js', 'worker.js', 'carry.js', 'try.css']
# what is loaded: by a browser with WebGPU, and by any other
RUNTIMES = {
    'webgpu': ('ort.webgpu.min.mjs', 'ort-wasm-simd-threaded.asyncify'),
    'wasm': ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded'),
}
MODEL = ['lowlight_nat/weights/small.safetensors', 'lowlight_nat/export/onnx.py',
         'lowlight_nat/export/static_graph.py']      # what the exported network is made from
OTHERS = ['package-lock.json', '.ci/try_page.py', 'samples/reference/coffee.png']
STORED = 1           # one more when `model` or `stored_half` changes: the network is exported anew
THUMBNAIL = 192      # side of a sample's button, pixels
SIDE = 48            # of the picture that a graphics processor is tried with, pixels


class NotBuilt(Exception):
    "The files can't be made here, in one sentence."


def key(sources):
    "A checksum of what files are made from."
    h = hashlib.sha256(str(STORED).encode())
    for o in sources: h.update((ROOT/o).read_bytes())
    return h.hexdigest()

def same(path, sources):
    "Was something made from these files as they are now? The checksum stands in a file."
    return path.is_file() and path.read_text() == key(sources)

def packages(folder):
    "The pinned npm packages, in a folder of their own."
    npm = shutil.which('npm')
    if npm is None: raise NotBuilt("npm isn't installed")
    for name in ('package.json', 'package-lock.json'): shutil.copy(ROOT/name, folder/name)
    command = [npm, 'ci', '--ignore-scripts', '--no-audit', '--no-fund', '--fetch-retries=1']
    try: r = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    except subprocess.TimeoutExpired: raise NotBuilt("npm's registry didn't answer in 3 minutes") from None
    if r.returncode: raise NotBuilt(f'npm ended with {r.returncode}: {r.stderr.strip()[-200:]}')

def stored_half(m):
    """An ONNX model whose weights are stored in 16 bits where that loses nothing; the first node
    that each meets makes 32 of them."""
    import numpy as np
    from onnx import helper, numpy_helper
    casts = []
    for t in m.graph.initializer:
        wide = numpy_helper.to_array(t)
        if wide.dtype != np.float32 or wide.size < 64: continue
        with np.errstate(over='ignore'): half = wide.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), wide): continue
        name = t.name
        t.CopyFrom(numpy_helper.from_array(half, f'{name}_half'))
        casts.append(helper.make_node('Cast', [t.name], [name], to=1))
    nodes = [*casts, *m.graph.node]
    del m.graph.node[:]
    m.graph.node.extend(nodes)
    return m

def model(path):
    "The bundled network as an ONNX file, unless it is there."
    note = path.with_suffix('.key')
    if path.is_file() and same(note, MODEL): return
    try:
        import onnx

        from lowlight_nat.export.onnx import _stamp as stamp
        from lowlight_nat.export.onnx import exported_program, to_onnx, write_onnx
        from lowlight_nat.models.checkpoint import load_model
        net = load_model('small')
        m = stamp(to_onnx(exported_program(net)), net, net.cfg.rounds, 20, net.cfg.latent_nat)
    except ImportError as e: raise NotBuilt(f'the network was not exported: {e}') from None
    write_onnx(stored_half(m), path)
    onnx.checker.check_model(str(path))
    note.write_text(key(MODEL))

def probe(path):
    "A small dark picture in levels, and what the network makes of it in Python, in [0, 1]."
    import torch

    from lowlight_nat.export.onnx import OnnxEnhancer
    from lowlight_nat.io.images import read_image
    low = read_image(ROOT/'samples/reference/coffee.png')[:, 100:100 + SIDE, 200:200 + SIDE]
    dark = torch.round(low*0.1*255)
    high = OnnxEnhancer(path, threads=1).run(dark[None]/255).x[0]
    levels = dark.int().flatten().tolist()
    return dict(h=SIDE, w=SIDE, low=levels, high=[round(o, 4) for o in high.flatten().tolist()])

def pack(source, to):
    "A packed copy of a file, the same bytes each time, and its sizes."
    plain = source.read_bytes()
    small = gzip.compress(plain, 9, mtime=0)
    to.write_bytes(small)
    return dict(path=to.name, packed=len(small), plain=len(plain))

def thumbnails(folder):
    "A small bright square of each sample, and the dark file itself."
    from PIL import Image
    folder.mkdir()
    for path in sorted((ROOT/'samples').iterdir()):
        bright = ROOT/'samples/reference'/path.name
        if not bright.is_file(): continue
        shutil.copy(path, folder/path.name)
        with Image.open(bright) as im:
            side = min(im.size)
            left = (im.width - side)//2
            square = im.convert('RGB').crop((left, 0, left + side, side)).resize((THUMBNAIL, THUMBNAIL))
        square.save(folder/f'{path.stem}_small.jpg', quality=85)

def make(folder):
    "All that is not ours by hand, in an empty folder."
    npm = folder.with_name('npm')
    shutil.rmtree(npm, ignore_errors=True)
    npm.mkdir(parents=True)
    packages(npm)
    files = {}
    for kind, (module, program) in RUNTIMES.items():
        for name in (module, f'{program}.mjs'): shutil.copy(npm/DIST/name, folder/name)
        wasm = pack(npm/DIST/f'{program}.wasm', folder/f'{program}.wasm.gz')
        files[kind] = dict(module=module, glue=f'{program}.mjs', wasm=wasm)
    network = folder.with_name('small.onnx')
    model(network)
    files['model'] = pack(network, folder/'small.onnx.gz')
    files['probe'] = probe(network)
    thumbnails(folder/'samples')
    (folder/'files.json').write_text(json.dumps(files), encoding='utf-8')
    (folder/'key').write_text(key(MODEL + OTHERS))

def built():
    "The folder of files, made unless they are there; raises NotBuilt."
    done = BUILD/'files'
    if same(done/'key', MODEL + OTHERS): return done
    part = BUILD/'part'
    for o in (done, part): shutil.rmtree(o, ignore_errors=True)
    part.mkdir(parents=True)
    make(part)
    return part.rename(done)

def main(site):
    "The page's files in the folder `try` of a processed site."
    to = Path(site)/'try'
    to.mkdir(parents=True, exist_ok=True)
    for name in OURS: shutil.copy(ROOT/'nbs/try'/name, to/name)
    try: shutil.copytree(built(), to, dirs_exist_ok=True, ignore=shutil.ignore_patterns('key'))
    except NotBuilt as e: return print(f'The files of the page "Try it" were not built: {e}.')
    files = json.loads((to/'files.json').read_text(encoding='utf-8'))
    for kind, o in (('WebGPU', files['webgpu']), ('WASM', files['wasm'])):
        both = [o['wasm'], files['model']]
        packed, plain = [sum(o[k] for o in both)/1e6 for k in ('packed', 'plain')]
        print(f'"Try it" with {kind} loads {packed:.1f} MB, which unpacked are {plain:.1f} MB')


if __name__ == '__main__': main(sys.argv[1] if len(sys.argv) > 1 else ROOT/'_proc')
