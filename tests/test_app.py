"The app in a browser: headless Chromium, driven by keys, through Voila and in JupyterLab."
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowlight_nat.app.widgets import write_app
from lowlight_nat.inference.enhancer import Enhancer

pytestmark = pytest.mark.slow

# what the page may ask for
LOCAL = 'http://127.0.0.1:', 'ws://127.0.0.1:', 'data:', 'blob:', 'chrome'
# a folder, to look at what the page showed
SHOTS = os.environ.get('LOWLIGHT_SHOTS')

# ipywidgets keeps its file input outside of the page, where a driver can't reach it
CATCH = ("const make = document.createElement; document.createElement = function(...a) { const e = "
         "make.apply(this, a); if (a[0] == 'input') (window.inputs ??= []).push(e); return e }")


@pytest.fixture(scope='module')
def driver(tmp_path_factory, chromium):
    "A headless Chromium of its own folder, which talks to this computer alone."
    folder = tmp_path_factory.mktemp('chromium')
    d = chromium(folder, 'disable-quic', 'window-size=1100,1400', loggingPrefs=dict(browser='ALL', performance='ALL'))
    (folder/'down').mkdir()
    d.execute_cdp_cmd('Browser.setDownloadBehavior',
                      dict(behavior='allow', downloadPath=str(folder/'down')))
    d.execute_cdp_cmd('Page.addScriptToEvaluateOnNewDocument', dict(source=CATCH))
    d.down = folder/'down'
    yield d
    d.quit()

@pytest.fixture(scope='module')
def address(tmp_path_factory):
    "The address of `lowlight_app`, started as a user does."
    pytest.importorskip('voila', reason="voila isn't installed: pip install -e '.[app]'")
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    log = tmp_path_factory.mktemp('app')/'log.txt'
    env = dict(os.environ, OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '2'))
    with log.open('w') as f:
        p = subprocess.Popen([
            Path(sys.executable).parent/'lowlight_app', '--port',
            str(port), '--no-browser', '--device', 'cpu'
        ], stdout=f, stderr=f, stdin=subprocess.DEVNULL, env=env, start_new_session=True)
    try:
        until(lambda: listens(port) or p.poll() is not None, 120, lambda: log.read_text())
        assert p.poll() is None, log.read_text()
        yield f'http://127.0.0.1:{port}/', log, p
    finally:
        if p.poll() is None: p.send_signal(signal.SIGTERM)
        try: p.wait(30)
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL)

def listens(port):
    with socket.socket() as s: return s.connect_ex(('127.0.0.1', port)) == 0

def until(f, seconds, told=lambda: ''):
    "What `f` gives once it is true; on a machine with other work to do that takes a while."
    # a machine with other work takes longer; what never comes is a failure all the same
    end = time.monotonic() + 4*seconds
    while time.monotonic() < end:
        if res := f(): return res
        time.sleep(.1)
    pytest.fail(f'nothing after {seconds} s: {told()}')

class Page:
    "The page as a reader sees it."
    def __init__(self, driver): self.d = driver
    def js(self, code, *args): return self.d.execute_script('return ' + code, *args)
    def said(self):
        return self.js(
            "[...document.querySelectorAll('[role=status]')].filter(o => o.offsetParent).map(o => o.textContent)"
        )
    def images(self):
        return self.js(
            "[...document.querySelectorAll('figure img')].filter(o => o.offsetParent && o.complete "
            "&& o.naturalWidth).map(o => [o.alt, o.src])"
        )
    def slider(self, name):
        return self.js(
            "[...document.querySelectorAll('.widget-slider')].filter(o => o.offsetParent && "
            "o.querySelector('label').textContent == arguments[0]).map(o => o.querySelector('.noUi-handle'))[0]",
            name)
    def button(self, name):
        return self.js(
            "[...document.querySelectorAll('button')].filter(o => o.offsetParent && "
            "o.textContent.trim() == arguments[0])[0]",
            name)
    def press(self, element, *keys):
        self.js('arguments[0].focus()', element)
        self.d.switch_to.active_element.send_keys(*keys)
    def changed(self, before, seconds=60):
        return until(lambda: (now := self.images()) and now != before and now, seconds, self.told)
    def told(self):
        return (f'{self.said()} {[o["message"] for o in self.d.get_log("browser")]} '
                f'{self.js("document.body.innerText.slice(0, 2000)")}')
    def shot(self, name):
        if SHOTS: self.d.save_screenshot(str(Path(SHOTS)/f'app_{name}.png'))

def upload(page, path):
    "Choose a file, as the dialogue would."
    element = until(
        lambda: page.
        js("(() => { const o = (window.inputs || []).filter(o => o.type == 'file').at(-1); if (o "
           "&& !o.isConnected) { o.style.display = 'block'; document.body.append(o) } return o })()"
           ), 120, page.told)
    element.send_keys(str(path))


def click(page, driver, row, column):
    """Click in the middle of a cell of the picture of 90x60 pixels, which is 15 cells by 22.5; the
    place is marked."""
    from selenium.webdriver.common.action_chains import ActionChains
    before = page.images()
    img = page.js("[...document.querySelectorAll('img[onclick]')].filter(o => o.offsetParent)[0]")
    page.js("arguments[0].scrollIntoView({block: 'center'})", img)
    w = img.size['width']
    h = img.size['height']
    ActionChains(driver).move_to_element_with_offset(img, round(w*((column + .5)/22.5 - .5)),
                                                     round(h*
                                                           ((row + .5)/15 - .5))).click().perform()
    assert f'row {row}, column {column} marked' in page.changed(before)[0][0]
    page.shot('clicked')

def drive(page, driver, tmp_path, host):
    "All that a reader may do, from a wrong file to the saved result."
    from selenium.webdriver.common.keys import Keys
    dark = Image.effect_noise((90, 60), 20).convert('RGB').point(lambda v: v//6)
    dark.save(tmp_path/'night.png')
    (tmp_path/'odd.jpg').write_bytes(b'no picture')

    # a file that is no picture gets a sentence; a picture is shown
    upload(page, tmp_path/'odd.jpg')
    until(lambda: any("'odd.jpg' is not a picture" in o for o in page.said()), 60, page.told)
    assert page.images() == []
    upload(page, tmp_path/'night.png')
    first = page.changed([])
    assert len(first) == 1 and first[0][0].startswith('The left 50 percent')
    page.shot(f'{host}_before_after')

    # by keys alone: to the slider by Tab, and moved by an arrow
    page.js('document.activeElement.blur()')
    for _ in range(20):
        driver.switch_to.active_element.send_keys(Keys.TAB)
        if page.js("document.activeElement.className").startswith('noUi-handle'): break
    driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    second = page.changed(first)
    assert not second[0][0].startswith('The left 50 percent')

    # each tool, opened by Enter, answers to its sliders
    for tool, figures, slider in (('Rounds and threshold', 4, 'Show round'),
                                  ('One place', 7, 'Row'), ('Brush', 2, 'Rows')):
        page.press(page.button(tool), Keys.ENTER)
        before = until(lambda: len(o := page.images()) == figures and o, 60, page.told)
        page.press(page.slider(slider), Keys.ARROW_LEFT)
        page.changed(before)
        page.shot(f'{host}_{tool.split()[0].lower()}')
        assert all(alt for alt, _ in page.images())
        if tool == 'One place': click(page, driver, 2, 16)

    # saved: what the command would have made of it
    page.press(page.button('Enhance and save'), Keys.ENTER)
    link = until(lambda: page.js("document.querySelector('a[download]')"), 60, page.told)
    page.press(link, Keys.ENTER)
    file = until(lambda: (o := driver.down/'night_enhanced.png').exists() and o, 30, page.told)
    until(lambda: not list(driver.down.glob('*.crdownload')), 30)
    want = Enhancer.from_pretrained(device='cpu')(tmp_path/'night.png', rounds=4).image
    assert abs(np.array(Image.open(file)).astype(int) - np.array(want)).max() <= 1
    page.shot(f'{host}_saved')

def test_app(driver, address, tmp_path):
    url, log, _ = address
    page = Page(driver)
    driver.get(url)
    until(lambda: page.button('Rounds and threshold'), 120, lambda: log.read_text() + page.told())
    drive(page, driver, tmp_path, 'voila')

    # nothing went wrong unseen, and nobody else was asked
    errors = [o['message'] for o in driver.get_log('browser') if o['level'] == 'SEVERE']
    assert errors == []
    sent = [json.loads(o['message'])['message'] for o in driver.get_log('performance')]
    urls = [
        o['params']['request']['url'] for o in sent if o['method'] == 'Network.requestWillBeSent'
    ]
    assert len(urls) > 5 and [o for o in urls if not o.startswith(LOCAL)] == []
    assert 'Traceback' not in log.read_text()

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    """The address of a notebook that shows the app, in a JupyterLab of its own settings, and its
    log."""
    pytest.importorskip('jupyterlab', reason="JupyterLab isn't installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp('lab')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    home = {
        k: str(folder/k.lower())
        for k in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR',
                  'JUPYTERLAB_SETTINGS_DIR', 'JUPYTERLAB_WORKSPACES_DIR')
    }
    (folder/'work').mkdir()
    write_app(folder/'work', device='cpu')
    # no question about news over the page
    (folder/'jupyter_config_dir/labconfig').mkdir(parents=True)
    (folder/'jupyter_config_dir/labconfig/page_config.json'
     ).write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    log = folder/'log.txt'
    p = None
    line = [
        sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1',
        f'--port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=',
        '--LabApp.expose_app_in_browser=True', f'--ServerApp.root_dir={folder/"work"}'
    ]
    with log.open('w') as f:
        p = subprocess.Popen(line, stdout=f, stderr=f, stdin=subprocess.DEVNULL,
                             env=os.environ | home | dict(OMP_NUM_THREADS='1'),
                             start_new_session=True)
    try:
        until(lambda: listens(port) or p.poll() is not None, 120, log.read_text)
        assert p.poll() is None, log.read_text()
        yield f'http://127.0.0.1:{port}/doc/tree/lowlight_nat.ipynb', log
    finally:
        os.killpg(p.pid, signal.SIGTERM)
        try: p.wait(30)
        except subprocess.TimeoutExpired: os.killpg(p.pid, signal.SIGKILL)

def test_app_in_jupyterlab(driver, lab, tmp_path):
    "The same tools, in a cell of a notebook"
    url, log = lab
    for o in driver.down.iterdir(): o.unlink()
    driver.get(url)
    page = Page(driver)
    until(lambda: page.js("!!document.querySelector('.jp-Cell') && !!window.jupyterapp"), 120,
          lambda: log.read_text() + page.told())
    until(
        lambda: page.js(
            "!!document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')"), 120,
        page.told)
    def begun():   # asked for too early, the cell is not run, or there is a question about kernels
        if b := page.js("document.querySelector('.jp-Dialog .jp-mod-accept')"): b.click()
        page.js("document.querySelector('.jp-Cell .cm-content')?.focus()")
        page.js("jupyterapp.commands.execute('notebook:run-all-cells'), 0")
        time.sleep(5)
        return page.js(
            "!document.querySelector('.jp-Dialog') && !/\\[ "
            "?\\]/.test(document.querySelector('.jp-Cell .jp-InputPrompt').textContent)"
        )
    until(begun, 120, page.told)
    until(lambda: page.button('Rounds and threshold'), 180,
          lambda: log.read_text()[-2000:] + page.told())
    drive(page, driver, tmp_path, 'lab')

def test_served_to_this_computer_alone(address):
    url, _, p = address
    port = int(url.rstrip('/').rsplit(':', 1)[1])
    tables = [Path('/proc/net')/o for o in ('tcp', 'tcp6')]
    if not tables[0].exists(): pytest.skip('this system has no /proc/net/tcp to look into')
    rows = [l.split() for o in tables if o.exists() for l in o.read_text().splitlines()[1:]]
    # 0A: listening
    local = {
        r[1].split(':')[0]
        for r in rows
        if r[3] == '0A' and int(r[1].split(':')[1], 16) == port
    }
    assert local == {'0100007F'}, 'it must listen on 127.0.0.1 only'
    req = urllib.request.Request(url, headers={'Host': 'elsewhere.example'})
    with pytest.raises(urllib.error.HTTPError) as e: urllib.request.urlopen(req, timeout=60)
    assert e.value.code == 403
