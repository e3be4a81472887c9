"""Pure. The page at `/docs`: it reads `/openapi.json`, shows it, and lets one try a request. It needs no other host."""

from base64 import b64encode
from hashlib import sha256

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --mark: #2563eb }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } code, pre, textarea { font: 13px/1.45 ui-monospace, monospace }
details { border: 1px solid var(--line); border-radius: 8px; margin: .6rem 0; padding: 0 .9rem }
summary { cursor: pointer; padding: .6rem 0 } summary b { color: var(--mark); margin-right: .6rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .25rem .5rem; vertical-align: top }
tr { border-top: 1px solid var(--line) }
pre { background: var(--soft); padding: .7rem; overflow: auto; max-height: 26rem }
textarea { width: 100%; min-height: 9rem; box-sizing: border-box } button { padding: .3rem 1rem } .soft { opacity: .7 }
"""
_SCRIPT = """
const make = (tag, text, ...inside) => {
  const made = document.createElement(tag); if (text) made.textContent = text; made.append(...inside); return made;
};
const examples = {
  '/v1/chat/completions': {model: '', messages: [{role: 'user', content: 'Hello!'}], max_tokens: 64, stream: true},
  '/v1/completions': {model: '', prompt: 'Once upon a time', max_tokens: 64, stream: true},
  '/v1/embeddings': {model: '', input: ['Hello!', 'Good day!']},
  '/v1/images/generations': {model: '', prompt: 'a lighthouse at night', stream: true},
  '/v1/videos': {model: '', prompt: 'a lighthouse at night', stream: true},
  '/tokenize': {model: '', prompt: 'Hello!'}, '/detokenize': {model: '', tokens: [1, 2, 3]},
};
let schemas = {}, key;
const named = shape => shape && shape.$ref ? schemas[shape.$ref.split('/').pop()] : shape;
const kind = shape => {
  if (!shape) return 'any';
  if (shape.$ref) return shape.$ref.split('/').pop();
  if (shape.anyOf) return shape.anyOf.map(kind).filter(one => one !== 'null').join(' | ');
  if (shape.enum) return shape.enum.map(one => JSON.stringify(one)).join(' | ');
  if (shape.type === 'array') return kind(shape.items) + '[]';
  return shape.type || 'any';
};
const bounds = shape => (shape.anyOf || [shape]).flatMap(one => ['minimum', 'exclusiveMinimum', 'maximum', 'minLength',
  'maxLength', 'minItems', 'maxItems'].filter(name => one[name] !== undefined)
  .map(name => name + ' ' + one[name])).join(', ');
const fields = shape => {
  const found = named(shape), table = make('table');
  for (const [name, inner] of Object.entries((found && found.properties) || {}))
    table.append(make('tr', '', make('td', '', make('code', name)), make('td', kind(inner)),
      make('td', (found.required || []).includes(name) ? 'required' : ''), make('td', bounds(inner))));
  return table;
};
const send = async (path, method, body, out) => {
  out.textContent = '';
  const headers = body === undefined ? {} : {'content-type': 'application/json'};
  if (key.value) headers.authorization = 'Bearer ' + key.value;
  try {
    const answer = await fetch(path, {method, headers, body});
    out.textContent = answer.status + ' ' + (answer.headers.get('content-type') || '') + '\\n\\n';
    const reader = answer.body.getReader(), decoder = new TextDecoder();
    for (let part; !(part = await reader.read()).done;) out.append(decoder.decode(part.value, {stream: true}));
  } catch (error) { out.textContent = String(error); }
};
const attempt = (path, method) => {
  const box = make('div'), out = make('pre'), go = make('button', 'Send');
  const input = make(method === 'POST' ? 'textarea' : 'input');
  input.value = method === 'POST' ? JSON.stringify(examples[path] || {}, null, 2) : path;
  if (method !== 'POST') input.size = 60;
  go.onclick = () => method === 'POST'
    ? send(path, method, input.value, out) : send(input.value, method, undefined, out);
  box.append(input, make('p', '', go), out);
  return box;
};
(async () => {
  const main = document.querySelector('main'), told = await (await fetch('/openapi.json')).json();
  schemas = told.components.schemas; key = document.querySelector('#key');
  document.querySelector('#version').textContent = told.info.version;
  try {
    const there = await (await fetch('/v1/models')).json();
    for (const example of Object.values(examples)) if (there.data && there.data[0]) example.model = there.data[0].id;
  } catch (error) { console.log(error); }
  for (const [path, methods] of Object.entries(told.paths)) for (const [method, about] of Object.entries(methods)) {
    const upper = method.toUpperCase();
    const body = about.requestBody && about.requestBody.content['application/json'].schema;
    const entry = make('details', '', make('summary', '', make('b', upper), make('code', path)));
    entry.append(make('p', about.summary));
    if (about.description) entry.append(make('p', about.description));
    if (body) entry.append(make('h4', 'Body'), fields(body));
    const good = about.responses['200'].content['application/json'];
    if (good) entry.append(make('h4', 'Answer'), fields(good.schema));
    entry.append(make('h4', 'Try it'), attempt(path, upper));
    main.append(entry);
  }
})();
"""
_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Wiremesh</title><style>{_STYLE}</style></head><body>
<h1>Wiremesh <span id="version" class="soft"></span></h1>
<p>An OpenAI-compatible interface. Point any client at <code>/v1</code> of this address. The description for programs
is <a href="/openapi.json">/openapi.json</a>.</p>
<p><label>API key, if one is needed: <input id="key" type="password" autocomplete="off"></label></p>
<main></main><script>{_SCRIPT}</script></body></html>
"""


def _source(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


PAGE = _PAGE.encode()
# Nothing but this very script and style runs on the page, and it talks to nobody else.
POLICY = (
    f"default-src 'none'; script-src {_source(_SCRIPT)}; style-src {_source(_STYLE)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
).encode()
