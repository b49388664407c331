"""Start JupyterLab on this machine's own address and drive it with Chromium, as a reader would.

Done means: no cell is running or waiting, and the saved notebook has an execution count on every
code cell.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = os.environ.get("JETNB_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOCAL = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:")
# The question about news would lie over the screenshots.
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}
# The indicator says "idle" while the toolbar still says "No Kernel"; Run All at that moment opens a
# dialogue.
READY = """() => {
  const name = document.querySelector('.jp-Toolbar-kernelName');
  const state = document.querySelector('.jp-Notebook-ExecutionIndicator');
  return name && state && !/no kernel/i.test(name.textContent) && state.dataset.status === 'idle'; }"""
NOTHING_RUNS = """() => {
  const state = document.querySelector('.jp-Notebook-ExecutionIndicator');
  const prompts = [...document.querySelectorAll('.jp-InputArea-prompt')].map(prompt => prompt.textContent);
  return state.dataset.status === 'idle' && prompts.some(text => /\\d/.test(text))
    && !prompts.some(text => text.includes('*')); }"""


@dataclass
class Lab:
    """A running server: its address, the token, and the folder it serves."""

    url: str
    token: str
    root: Path


@contextlib.contextmanager
def jupyterlab(root, *, scratch, kernels=None):
    """A server over the folder root, its settings and its log in the folder scratch; stopped at the
    end.

    kernels: settings of JupyterLab for kernels, such as {"commsOverSubshells": "disabled"}.
    """
    scratch, token = Path(scratch), secrets.token_hex(16)
    settings = scratch / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(NO_NEWS))
    (settings / "kernels-settings.jupyterlab-settings").write_text(json.dumps(kernels or {}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "run",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipy",
    }
    environment = os.environ | {name: str(scratch / folder) for name, folder in folders.items()}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={url.rpartition(':')[2]}",
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={root}",
    ]
    with open(scratch / "lab.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            _wait_for(url, token, server, log.name)
            yield Lab(url, token, Path(root))
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(url, token, server, log, *, timeout=120):
    end = time.monotonic() + timeout
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{url}/api/status?token={token}", timeout=2).read()
            return
        time.sleep(0.2)
    raise RuntimeError("JupyterLab did not start:\n" + Path(log).read_text())


class Reader:
    """A browser with one notebook open; `outside` collects every address that is not on this
    machine.
    """

    def __init__(self, page, lab, path):
        self.page, self.lab, self.path, self.outside = page, lab, path, []
        page.set_default_timeout(60_000)
        page.on("request", lambda request: self._note(request.url))
        page.on("websocket", lambda socket: self._note(socket.url))
        page.goto(f"{lab.url}/doc/tree/{path}?token={lab.token}&reset")
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function(READY)

    def _note(self, url):
        if not url.startswith(LOCAL):
            self.outside.append(url)

    def start_all(self):
        """Run All Cells."""
        self.page.get_by_role("menuitem", name="Run", exact=True).first.click()
        self.page.get_by_text("Run All Cells", exact=True).click()

    def run_all(self, *, timeout=240):
        """Run All Cells, wait until nothing runs, save; returns the notebook as saved."""
        self.start_all()
        end = time.monotonic() + timeout
        while True:
            self.page.wait_for_function(NOTHING_RUNS, timeout=timeout * 1000)
            self.page.keyboard.press("Control+s")
            time.sleep(0.5)
            saved = json.loads((self.lab.root / self.path).read_text(encoding="utf-8"))
            if not waiting_cells(saved) or failed_cells(saved) or time.monotonic() > end:
                return saved

    def picture(self, number=0):
        """The bytes, as text, of a picture of an interactive panel, counted from 0."""
        image = self.page.locator("img.widget-image").nth(number)
        image.scroll_into_view_if_needed()
        # The address is read where it is fetched: a panel that draws meanwhile withdraws the one
        # before.
        return image.evaluate("""image => fetch(image.src).then(answer => answer.arrayBuffer())
            .then(bytes => Array.from(new Uint8Array(bytes)).join())""")

    def changes(self, action, *, timeout=30):
        """Whether the picture becomes another within timeout seconds of the action, and stays a
        picture.
        """
        before = self.picture()
        action()
        return self.becomes_another(before, timeout=timeout)

    def becomes_another(self, before, number=0, *, timeout=30):
        """Whether a picture is, or becomes within timeout seconds, another than before, and a
        picture.
        """
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if len(now := self.picture(number)) > 1000 and now != before:
                return True
            time.sleep(0.1)
        return False

    def settle(self):
        """Wait until nothing runs any more and show the first panel."""
        self.page.wait_for_function(NOTHING_RUNS)
        self.page.locator("img.widget-image").first.scroll_into_view_if_needed()

    def press(self, key, *, slider=0, times=3):
        """Press a key on the handle of a slider."""
        handle = self.page.locator(".widget-slider .noUi-handle").nth(slider)
        handle.scroll_into_view_if_needed()
        handle.focus()
        for _ in range(times):
            self.page.keyboard.press(key)

    def choose(self, label, *, index):
        """Choose the entry with this index of the menu with this label."""
        menu = self.page.locator(".widget-dropdown", has_text=label).locator("select").first
        menu.scroll_into_view_if_needed()
        menu.select_option(index=index)


@contextlib.contextmanager
def reader(lab, path, *, profile):
    """A headless Chromium with the notebook open and its kernel ready."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            headless=True,
            args=ARGUMENTS,
            viewport={"width": 1400, "height": 1000},
        )
        try:
            yield Reader(context.pages[0] if context.pages else context.new_page(), lab, path)
        finally:
            context.close()


def waiting_cells(notebook):
    """Sources of the code cells of a saved notebook that were never executed."""
    return [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and not cell["execution_count"]
    ]


def failed_cells(notebook):
    """Sources of the cells of a saved notebook that show an error and were not meant to."""
    return [
        "".join(cell["source"])
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        if output["output_type"] == "error"
        and "raises-exception" not in cell["metadata"].get("tags", [])
    ]
