"Pictures from the web, fetched by a process that is killed again and again"
import random, socketserver, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler

import pytest

from automode.core import asset_path
from automode.data.download import download_images, read_sources

PICTURE = sorted(asset_path('samples', 'style').glob('*.png'))[0].read_bytes()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        time.sleep(.05)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(PICTURE)

    def log_message(self, *args): pass


@pytest.fixture
def server():
    with socketserver.ThreadingTCPServer(('127.0.0.1', 0), Handler) as server:
        server.daemon_threads, server.asked, server.handle_error = True, [], lambda *args: None
        threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=.05), daemon=True).start()
        yield server
        server.shutdown()


def test_killed_downloads_go_on_where_they_stopped(server, tmp_path):
    site, rng = f'http://127.0.0.1:{server.server_address[1]}', random.Random(0)
    addresses = [f'{site}/{n}/picture.png' for n in range(120)]
    command = f'from automode.data.download import download_images; download_images({addresses}, {str(tmp_path)!r}, allow_private=True)'
    before = 0
    for _ in range(5):
        process = subprocess.Popen([sys.executable, '-c', command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(server.asked) < before + 10 and time.monotonic() < deadline: time.sleep(.01)
        time.sleep(rng.random()*.05)
        process.kill()
        assert process.wait() != 0, 'it should have been killed in the middle'
        before = len(server.asked)
        for path in tmp_path.glob('*.png'): assert path.read_bytes() == PICTURE
    found = download_images(addresses, tmp_path, allow_private=True)
    assert list(found.saved) == addresses and not found.rejected and 0 < len(found.kept) < len(addresses)
    assert len(server.asked) <= len(addresses) + 5*4, 'at most the pictures under way are fetched again'
    assert sorted(o.name for o in tmp_path.glob('*.png')) == sorted(found.saved.values())
    assert read_sources(tmp_path) == {name: address for address, name in found.saved.items()}
