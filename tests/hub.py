"A server on this machine that answers as the Hugging Face hub does: repositories, files large and small, and who may write"
import base64, contextlib, hashlib, json, re, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

TOKENS = {'hf_of_me': 'me', 'hf_of_you': 'you'}


class Hub(ThreadingHTTPServer):
    "What was stored: `repos` holds files and whether they are private, `asked` every request"
    def __init__(self):
        super().__init__(('127.0.0.1', 0), Answer)
        self.repos, self.blobs, self.asked, self.address = {}, {}, [], f'http://127.0.0.1:{self.server_address[1]}'

class Answer(BaseHTTPRequestHandler):
    def log_message(self, *_): pass

    def say(self, value=None, code=200, data=None, **headers):
        "Answer with JSON, or with `data`"
        body = data if data is not None else json.dumps(value if value is not None else {}).encode()
        self.send_response(code)
        for k, v in {'Content-Length': len(body), 'X-Request-Id': 'one', **headers}.items(): self.send_header(k.replace('_', '-'), str(v))
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def answer(self):
        "Find out what is asked"
        hub, path = self.server, self.path.split('?')[0]
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        hub.asked.append(f'{self.command} {path}')
        if self.headers.get('Transfer-Encoding') == 'chunked': body = self.chunks()
        if found := re.fullmatch(r'/blobs/(\w+)', path): return self.keep(found[1], body)
        me = TOKENS.get((self.headers.get('Authorization') or '').removeprefix('Bearer '))
        if path == '/api/validate-yaml': return self.check(json.loads(body)['content'])
        if found := re.fullmatch(r'/([\w.-]+/[\w.-]+)/resolve/\w+/(.+)', path): return self.fetch(me, *found.groups())
        if me is None: return self.say({'error': 'Invalid username or password.'}, 401)
        if path == '/api/repos/create': return self.create(me, json.loads(body))
        found = re.match(r'/(?:api/models/)?([\w.-]+/[\w.-]+?)(?:\.git)?(/.*)?$', path)
        repo, rest = found[1], found[2] or ''
        if repo not in hub.repos: return self.say({'error': 'Repository not found'}, 404, X_Error_Code='RepoNotFound')
        if self.command == 'GET': return self.say(dict(id=repo, private=hub.repos[repo]['private'], sha='0' * 40, tags=[], siblings=[]))
        if repo.split('/')[0] != me: return self.say({'error': 'Forbidden'}, 403)
        if rest.startswith('/preupload'): return self.sort_out(json.loads(body)['files'])
        if rest.startswith('/info/lfs'): return self.where_to(json.loads(body)['objects'])
        if rest.startswith('/commit'): return self.commit(repo, [json.loads(o) for o in body.splitlines()])
        self.say({'error': f'{path} is not known here'}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def chunks(self):
        "A body whose length nobody said before"
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(parts)

    def create(self, me, asked):
        repo = f"{asked.get('organization') or me}/{asked['name']}"
        if not repo.startswith(f'{me}/'): return self.say({'error': f"You don't have the rights to create a model under the namespace {repo}"}, 403)
        if repo in self.server.repos: return self.say({'error': 'You already created this model repo', 'url': f'{self.server.address}/{repo}'}, 409)
        self.server.repos[repo] = dict(private=bool(asked.get('private') or asked.get('visibility') == 'private'), files={})
        self.say(dict(url=f'{self.server.address}/{repo}', name=repo, id='1'))

    def check(self, card):
        "What the hub says of front matter"
        try: data, errors = yaml.safe_load(card.split('---\n')[1]), []
        except Exception as e: data, errors = {}, [dict(message=str(e))]
        if not isinstance(data.get('tags'), list) or data.get('pipeline_tag') != 'text-to-image': errors.append(dict(message='tags or pipeline_tag'))
        for o in data.get('widget', []):
            if not isinstance(o.get('text'), str) or not isinstance(o['output'].get('url'), str): errors.append(dict(message='widget'))
        self.say(dict(errors=errors, warnings=[]), 400 if errors else 200)

    def sort_out(self, files):
        kind = lambda o: 'lfs' if o['path'].endswith(('.safetensors', '.png')) else 'regular'
        self.say(dict(files=[dict(path=o['path'], uploadMode=kind(o), shouldIgnore=False) for o in files]))

    def where_to(self, objects):
        upload = lambda o: dict(upload=dict(href=f"{self.server.address}/blobs/{o['oid']}"))
        self.say(dict(transfer='basic', objects=[dict(oid=o['oid'], size=o['size'], actions=upload(o)) for o in objects]),
                 Content_Type='application/vnd.git-lfs+json')

    def keep(self, oid, body):
        if hashlib.sha256(body).hexdigest() != oid: return self.say({'error': 'another file'}, 400)
        self.server.blobs[oid] = body
        self.say()

    def commit(self, repo, rows):
        files = self.server.repos[repo]['files']
        for o in rows:
            if o['key'] == 'file': files[o['value']['path']] = base64.b64decode(o['value']['content'])
            if o['key'] == 'lfsFile': files[o['value']['path']] = self.server.blobs[o['value']['oid']]
        self.say(dict(success=True, commitOid='0' * 40, commitUrl=f'{self.server.address}/{repo}/commit/{"0" * 40}', hookOutput=''))

    def fetch(self, me, repo, name):
        found = self.server.repos.get(repo)
        if found is None or (found['private'] and repo.split('/')[0] != me): return self.say({'error': 'no'}, 401, X_Error_Code='RepoNotFound')
        if name not in found['files']: return self.say({'error': 'no'}, 404, X_Error_Code='EntryNotFound')
        data = found['files'][name]
        self.say(data=data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit='0' * 40)


@contextlib.contextmanager
def running():
    "A hub that answers while the block lasts"
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, args=(.01,), daemon=True)     # how often it looks whether it is to end: a wait of every test
    thread.start()
    try: yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
