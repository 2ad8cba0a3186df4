"""The page "Try it" in a browser without a window: its results are Python's, it loads little, works on a
phone and by keyboard, and asks no other host for anything."""
import base64
import functools
import http.server
import io
import json
import re
import runpy
import threading
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from lowlight_nat.inference.enhancer import Enhancer
from lowlight_nat.inference.guided import carry, fit_colour, reduced, reduced_size
from lowlight_nat.inference.result import false_colour
from lowlight_nat.io.images import read_image, to_pil

SAMPLES = ['astronaut.webp', 'camera.png', 'chelsea.jpg', 'coffee.png', 'hopper.jpg', 'rocket.webp']
OWN = re.compile(r'^(https?://)?[\w.-]+\.(google|googleapis|gvt1)\.com\b')   # what Chromium itself asks for
SCRIPT = ROOT/'.ci/try_page.py'
SHELL = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Try it</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">
<style>body { font: 17px/1.5 sans-serif; margin: 0; background: BACK; color: FORE }
main { padding: 0 12px; max-width: 900px; margin: auto }</style></head>
<body class="quarto-THEME"><main><h1>Try it in your browser</h1>BODY</main></body></html>"""
THEMES = {'light': ('#ffffff', '#343a40'), 'dark': ('#222222', '#ffffff')}   # grounds and text of cosmo and darkly


def written():
    "What Quarto hands through of the page: its HTML."
    return re.search(r'```\{=html\}\n(.*?)```', (ROOT/'nbs/try.qmd').read_text(encoding='utf-8'), re.S)[1]

class Quiet(http.server.SimpleHTTPRequestHandler):
    "A plain host: no headers beyond the usual."
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, '.mjs': 'text/javascript',
                      '.js': 'text/javascript'}
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    "The address and the folder of a site that has the page alone."
    folder = tmp_path_factory.mktemp('site')
    runpy.run_path(str(SCRIPT))['main'](folder)
    if not (folder/'try/files.json').is_file():
        pytest.skip("the page's files can't be built here: they need npm, its registry, and onnx")
    for theme, (back, fore) in THEMES.items():
        html = SHELL.replace('BACK', back).replace('FORE', fore).replace('THEME', theme)
        (folder/f'{theme}.html').write_text(html.replace('BODY', written()), encoding='utf-8')
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}', folder
    server.shutdown()

class Trap(http.server.BaseHTTPRequestHandler):
    "A proxy that notes what it is asked for and gives nothing."
    asked = []
    def note(self):
        self.asked.append(self.path)
        self.send_error(502)
    do_GET = do_HEAD = do_POST = do_PUT = do_CONNECT = do_OPTIONS = note
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def elsewhere():
    "The address of a proxy for all other hosts, and the list of what was asked of them."
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Trap)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'127.0.0.1:{server.server_port}', Trap.asked
    server.shutdown()

@pytest.fixture(scope='module')
def driver(tmp_path_factory, chromium, elsewhere, site):
    d = chromium(tmp_path_factory.mktemp('try'), 'disable-quic', 'window-size=1400,1000',
                 f'proxy-server={elsewhere[0]}', 'proxy-bypass-list=127.0.0.1', loggingPrefs=dict(browser='ALL'))
    d.set_script_timeout(120)
    yield d
    d.quit()

def wait(driver, done, seconds=300):
    "Until the status begins with one of the words; what it says."
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        text = driver.find_element('id', 'try-status').text
        if text.startswith(done): return text
        time.sleep(0.1)
    pytest.fail(f'after {seconds} s the page says: {text}')

def downloaded(driver):
    "The picture behind the link, and its name."
    link = driver.find_element('id', 'try-save')
    data = driver.execute_async_script("""const [a, done] = arguments
        fetch(a.href).then(o => o.blob()).then(b => {
          const r = new FileReader(); r.onload = () => done(r.result); r.readAsDataURL(b) })""", link)
    return Image.open(io.BytesIO(base64.b64decode(data.partition(',')[2]))), link.get_attribute('download')

def same(a, b):
    "Share of the values of two pictures that differ by one level at most."
    return (np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)) <= 1).mean()

@pytest.fixture(scope='module')
def python(site):
    "The result of the exported file by onnxruntime in Python, and that of the package."
    from lowlight_nat.export.onnx import OnnxEnhancer
    onnx = OnnxEnhancer(ROOT/'build/try/small.onnx', threads=2)
    enhancer = Enhancer.from_pretrained(device='cpu')
    return lambda x: (onnx(x), enhancer(x))


@pytest.mark.parametrize('name', SAMPLES)
def test_a_sample_in_the_browser_is_pythons(site, driver, python, name):
    driver.get(f'{site[0]}/light.html')
    wait(driver, 'Nothing is loaded')
    driver.find_elements('css selector', '.try-samples button')[SAMPLES.index(name)].click()
    said = wait(driver, 'Done')
    got, called = downloaded(driver)
    assert called == name.partition('.')[0] + '_enhanced.png'
    results = python(ROOT/'samples'/name)
    shares = [same(got.convert('RGB'), o.image.convert('RGB')) for o in results]
    print(f'{name}: {said} ONNX file in Python {shares[0]:.5%}, Enhancer {shares[1]:.5%} within a level')
    assert min(shares) >= 0.999
    cells = driver.execute_script("""const c = document.querySelector('#try .try-map')
        return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]""")
    entropy = to_pil(false_colour(results[0].entropy))
    cells = np.array(cells).reshape(entropy.height, entropy.width, 4)[..., :3]
    assert same(cells, entropy) >= 0.999

def test_the_formula_for_large_pictures_is_the_librarys(site, driver):
    torch.manual_seed(0)
    x = read_image(ROOT/'samples/coffee.png')
    size = reduced_size(x.shape[-2:], 20_000)
    u = reduced(x[None], size)[0]
    v = (reduced(read_image(ROOT/'samples/reference/coffee.png')[None], size)[0]).contiguous()
    expected = carry(x, fit_colour(u, v))
    driver.get(f'{site[0]}/light.html')
    got, low = driver.execute_async_script("""const [bytes, H, W, v, n, done] = arguments
        import('/try/carry.js').then(m => {
          const [h, w] = m.reducedSize(H, W, n)
          const u = m.reduced(bytes, H, W, h, w)
          const maps = m.fitColour(u, Float32Array.from(v), h, w)
          done([[...m.carry(bytes, H, W, maps, h, w)], [...u]]) })""",
        np.dstack([np.asarray(to_pil(x)), np.full(x.shape[-2:], 255)]).flatten().tolist(),
        *x.shape[-2:], v.flatten().tolist(), 20_000)
    torch.testing.assert_close(torch.tensor(low).view_as(u), u, atol=1e-6, rtol=0)
    got = np.array(got).reshape(*x.shape[-2:], 4)[..., :3]
    assert same(got, np.asarray(to_pil(expected))) >= 0.9999

def test_twelve_megapixels_on_a_phone(site, driver, python, tmp_path):
    x = read_image(ROOT/'samples/coffee.png')
    large = torch.nn.functional.interpolate(x[None], (3000, 4000), mode='bicubic')[0].clamp(0, 1)
    to_pil(large).save(tmp_path/'photo.png', compress_level=1)
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride',
                           dict(width=390, height=844, deviceScaleFactor=1, mobile=True))
    try:
        driver.get(f'{site[0]}/dark.html')
        wait(driver, 'Nothing is loaded')
        began = time.monotonic()
        driver.find_element('id', 'try-file').send_keys(str(tmp_path/'photo.png'))
        said = wait(driver, 'Done')
        print(f'12 megapixels, with loading {time.monotonic() - began:.1f} s: {said}')
        assert driver.execute_script('return document.documentElement.scrollWidth') <= 390
        note = driver.find_element('id', 'try-note').text
        got, called = downloaded(driver)
        assert got.size == (4000, 3000) and called == 'photo_enhanced.jpg'
        w, h = map(int, re.search(r'at (\d+) by (\d+)', note).groups())
        assert 200_000 < w*h < 300_000
        low = read_image(tmp_path/'photo.png')
        u = reduced(low[None], (h, w))[0]
        from lowlight_nat.export.onnx import OnnxEnhancer
        v = OnnxEnhancer(ROOT/'build/try/small.onnx', threads=2)(u).x
        expected = np.asarray(to_pil(carry(low, fit_colour(u, v))), dtype=int)
        off = np.abs(np.asarray(got.convert('RGB'), dtype=int) - expected)
        print(f'mean difference from the same in Python {off.mean():.2f} levels, through a JPEG file')
        assert off.mean() < 1.5
    finally: driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})

def test_by_keyboard_alone(site, driver):
    from selenium.webdriver.common.keys import Keys
    driver.get(f'{site[0]}/light.html')
    wait(driver, 'Nothing is loaded')
    def now(): return driver.switch_to.active_element
    def tab(): driver.execute_cdp_cmd('Input.dispatchKeyEvent', dict(type='keyDown', key='Tab', code='Tab',
                                                                    windowsVirtualKeyCode=9))
    tab()
    assert now().text == 'astronaut'
    now().send_keys(Keys.ENTER)
    wait(driver, 'Done')
    line = driver.find_element('css selector', '.try-view input')
    line.send_keys(Keys.HOME)
    line.send_keys(*[Keys.ARROW_RIGHT]*4)
    assert driver.execute_script(
        "return document.querySelector('.try-view').style.getPropertyValue('--at')") == '2%'
    doubt = driver.find_element('id', 'try-doubt')
    assert not driver.find_element('class name', 'try-map').is_displayed()
    doubt.send_keys(Keys.SPACE)
    assert driver.find_element('class name', 'try-map').is_displayed()

def test_what_is_no_picture_gets_a_sentence(site, driver, tmp_path):
    (tmp_path/'a.jpg').write_bytes(b'no picture')
    driver.get(f'{site[0]}/light.html')
    wait(driver, 'Nothing is loaded')
    driver.find_element('id', 'try-file').send_keys(str(tmp_path/'a.jpg'))
    assert 'Give a JPEG, PNG or WebP' in wait(driver, 'This browser cannot read')

def test_no_request_left_this_machine(site, driver, elsewhere):
    "After all tests before it: everything for another host would have gone to the proxy, a worker's requests too."
    driver.get(f'{site[0]}/light.html')
    wait(driver, 'Nothing is loaded')
    def others(): return [o for o in elsewhere[1] if not OWN.search(o)]
    assert others() == []
    # the runtime's own warnings, of what it can't compute beforehand, come as errors of the console
    severe = [o['message'] for o in driver.get_log('browser') if o['level'] == 'SEVERE']
    assert [o for o in severe if '[W:onnxruntime' not in o] == []
    driver.execute_async_script("fetch('http://example.invalid/').finally(arguments[0])")   # and the proxy sees
    assert others() == ['http://example.invalid/']
    ours = [p.read_text(encoding='utf-8') for p in (ROOT/'nbs/try').iterdir()]
    assert not any(re.search('https?://', o) for o in ours)

def test_at_most_fifteen_megabytes(site):
    files = json.loads((site[1]/'try/files.json').read_text(encoding='utf-8'))
    ours = ['files.json', 'try.js', 'worker.js', 'carry.js', 'try.css']
    for kind in ('wasm', 'webgpu'):
        o = files[kind]
        rest = sum((site[1]/'try'/n).stat().st_size for n in (*ours, o['module'], o['glue']))
        loaded, plain = [o['wasm'][k] + files['model'][k] + rest for k in ('packed', 'plain')]
        print(f'{kind}: {loaded:,} bytes loaded, {plain:,} when unpacked')
        assert loaded <= 15_000_000


# --- without a browser ---

def luminance(colour):
    "Relative luminance of #rrggbb, as WCAG defines it."
    parts = [int(colour[i:i + 2], 16)/255 for i in (1, 3, 5)]
    linear = [o/12.92 if o <= 0.04045 else ((o + 0.055)/1.055)**2.4 for o in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])

def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05)/(low + 0.05)

def test_contrast_in_both_themes():
    style = (ROOT/'nbs/try/try.css').read_text(encoding='utf-8')
    for start, (page, _) in zip((r'^#try \{', r'^body\.quarto-dark #try \{'), THEMES.values()):
        own = dict(re.findall(r'--([\w-]+): (#\w{6})', re.search(rf'{start}.*$', style, re.M)[0]))
        pairs = [('text', 'ground'), ('text', 'soft'), ('on-main', 'main')]
        assert min(contrast(own[a], own[b]) for a, b in pairs) >= 4.5
        assert contrast(own['text'], page) >= 4.5
        assert min(contrast(own[o], page) for o in ('edge', 'mark', 'main')) >= 3    # lines and marks

def test_without_npm_the_site_is_made_and_says_so(tmp_path, monkeypatch, capsys):
    script = runpy.run_path(str(SCRIPT))
    monkeypatch.setattr('shutil.which', lambda name: None)
    script['main'].__globals__['BUILD'] = tmp_path/'build'
    script['main'](tmp_path/'site')
    assert 'were not built: npm isn\'t installed.' in capsys.readouterr().out
    assert sorted(o.name for o in (tmp_path/'site/try').iterdir()) == ['carry.js', 'try.css', 'try.js', 'worker.js']
    assert 'it was built without them' in (ROOT/'nbs/try/try.js').read_text(encoding='utf-8')
