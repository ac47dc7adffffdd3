// The view of a review: it shows what Python says and tells Python what the person does. Texts go in as textContent, never as HTML.

const KEYS = [
  ['j ↓ →', 'next picture'], ['k ↑ ←', 'previous picture'], ['a', 'accept, and on to the next'], ['x', 'leave out, or take in again'],
  ['n', 'next picture without a caption'], ['e Enter', 'write in the caption'], ['Esc', 'leave the caption'], ['Ctrl Enter', 'in the caption: accept, and on to the next'],
  ['Alt ↓ ↑', 'in the caption: next, previous'], ['u', 'undo'], ['r', 'redo'], ['/', 'search'], ['?', 'show or hide these keys'],
]
const ROW = 76, SPARE = 4, PAUSE = 400                // pixels, rows, milliseconds
const SAID = { auto: '', edited: 'edited', accepted: 'accepted', excluded: 'left out' }

// captions are kept with single blanks; what differs in blanks alone is the same
const same = (a, b) => a.trim().split(/\s+/).join(' ') === b.trim().split(/\s+/).join(' ')

function make(tag, cls, parent, text) {
  const el = document.createElement(tag)
  if (cls) el.className = cls
  if (text !== undefined) el.textContent = text
  if (parent) parent.append(el)
  return el
}

function button(parent, text, title, act) {
  const el = make('button', 'amr-button', parent, text)
  el.type = 'button'
  el.title = title
  el.addEventListener('click', act)
  return el
}

function select(parent, label, options, act) {
  const el = make('select', 'amr-select', parent)
  el.setAttribute('aria-label', label)
  for (const [value, text] of options) make('option', '', el, text).value = value
  el.addEventListener('change', () => act(el.value))
  return el
}

function render({ model, el }) {
  const root = make('div', 'amr', el)
  root.tabIndex = 0
  root.dataset.lmSuppressShortcuts = 'true'           // JupyterLab's own shortcuts stay away from what is typed here
  const top = make('div', 'amr-top', root)
  const body = make('div', 'amr-body', root)
  const list = make('div', 'amr-list', body)
  const all = make('div', 'amr-all', list)
  const main = make('div', 'amr-main', body)

  const ask = (what, rest = {}) => model.send({ do: what, ...rest })
  const order = select(top, 'Order', [['score', 'worst first'], ['name', 'by name'], ['length', 'by length'], ['status', 'by status']], o => ask('sort', { order: o }))
  const status = select(top, 'Show', [['', 'all'], ['uncaptioned', 'without a caption'], ['auto', 'not looked at'], ['edited', 'edited'], ['accepted', 'accepted'], ['excluded', 'left out']], filter)
  const search = make('input', 'amr-search', top)
  search.type = 'search'
  search.placeholder = 'words in the caption'
  search.setAttribute('aria-label', 'Words in the caption')
  let typing
  search.addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(filter, 250) })
  function filter() { ask('show', { text: search.value, status: status.value }) }
  const count = make('span', 'amr-count', top)
  const undo = button(top, '↶ undo', 'undo (u)', () => ask('undo'))
  const redo = button(top, '↷ redo', 'redo (r)', () => ask('redo'))
  button(top, '?', 'the keys (?)', help)

  const picture = make('img', 'amr-picture', main)
  picture.alt = ''
  const name = make('div', 'amr-name', main)
  const editor = make('textarea', 'amr-editor', main)
  editor.rows = 3
  editor.placeholder = 'no caption yet'
  editor.setAttribute('aria-label', 'Caption')
  const auto = make('div', 'amr-auto', main)
  const prompt = make('div', 'amr-prompt', main)
  const clash = make('div', 'amr-clash', main)
  const yours = make('span', '', clash)
  button(clash, 'take yours', 'put your caption in its place', () => { editor.value = view.mine; save(); editor.focus() })
  const buttons = make('div', 'amr-buttons', main)
  button(buttons, '← previous', 'previous (k)', () => go(-1))
  button(buttons, 'next →', 'next (j)', () => go(1))
  button(buttons, '✓ accept, next', 'accept, and on to the next (a)', accept)
  const out = button(buttons, '✕ leave out', 'leave out of the training; the file stays (x)', exclude)
  button(buttons, 'next without a caption', 'n', () => { save(); ask('next_uncaptioned') })
  const message = make('div', 'amr-message', root)
  message.setAttribute('role', 'status')
  const keys = make('table', 'amr-keys', root)
  keys.hidden = true
  for (const [key, what] of KEYS) { const row = make('tr', '', keys); make('th', '', row, key); make('td', '', row, what) }

  let view = {}, rows = new Map(), version = -1, current = null, saved = '', waiting

  // what was typed belongs to the picture that was there when it was typed
  function save() {
    clearTimeout(waiting)
    if (current === null || same(editor.value, saved)) return
    ask('write', { name: current, text: editor.value, seen: saved })
    saved = editor.value
  }
  editor.addEventListener('input', () => { clearTimeout(waiting); waiting = setTimeout(save, PAUSE) })
  editor.addEventListener('blur', save)
  function go(by) { save(); ask('go', { by }) }
  function accept() { save(); ask('accept', { name: current }) }
  function exclude() { save(); ask('exclude', { name: current, out: view.status !== 'excluded' }) }
  function help() { keys.hidden = !keys.hidden }

  const plain = { j: () => go(1), ArrowDown: () => go(1), ArrowRight: () => go(1), k: () => go(-1), ArrowUp: () => go(-1), ArrowLeft: () => go(-1),
    a: accept, x: exclude, n: () => { save(); ask('next_uncaptioned') }, e: () => editor.focus(), Enter: () => editor.focus(),
    u: () => { save(); ask('undo') }, r: () => { save(); ask('redo') }, '/': () => search.focus(), '?': help }
  root.addEventListener('keydown', event => {
    event.stopPropagation()                            // nor do the page's
    const { key } = event, typed = event.target === editor || event.target === search
    let act
    if (key === 'Escape') act = () => root.focus()
    else if (event.target === editor && key === 'Enter' && (event.ctrlKey || event.metaKey)) act = accept
    else if (event.target === editor && event.altKey && (key === 'ArrowDown' || key === 'ArrowUp')) act = () => go(key === 'ArrowDown' ? 1 : -1)
    else if (!typed && event.target.tagName !== 'SELECT' && !(event.target.tagName === 'BUTTON' && key === 'Enter') &&
             !event.ctrlKey && !event.metaKey && !event.altKey) act = plain[key]
    if (act) { event.preventDefault(); act() }
  })
  for (const kind of ['keyup', 'keypress']) root.addEventListener(kind, event => event.stopPropagation())

  // the list: only the rows that can be seen exist
  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW) - SPARE)
    const last = Math.min(view.shown, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + SPARE)
    all.style.height = `${view.shown * ROW}px`
    const want = []
    all.replaceChildren()
    for (let n = first; n < last; n++) {
      const found = rows.get(n), row = make('div', `amr-row${n === view.at ? ' amr-here' : ''}`, all)
      row.style.top = `${n * ROW}px`
      if (!found) { want.push(n); continue }
      const thumb = make('img', 'amr-thumb', row)
      thumb.alt = ''
      if (found.thumb) thumb.src = found.thumb
      const text = make('div', 'amr-text', row)
      make('div', `amr-line amr-${found.status}`, text, found.text || '(no caption)')
      make('small', 'amr-small', text, [SAID[found.status], found.score === null ? '' : found.score.toFixed(2), found.name].filter(Boolean).join(' · '))
      row.addEventListener('click', () => { save(); ask('go', { to: found.name }); root.focus() })
    }
    if (want.length) ask('rows', { start: want[0], stop: want[want.length - 1] + 1, version: view.version })
  }
  let drawing
  function soon() { if (!drawing) drawing = requestAnimationFrame(() => { drawing = null; draw() }) }
  list.addEventListener('scroll', soon)

  function update() {
    view = model.get('view')
    if (view.version !== version) { rows = new Map(); version = view.version }
    for (const row of rows.values()) if (view.touched && row.name === view.touched.name) Object.assign(row, view.touched)
    const moved = view.name !== current
    if (moved || (same(editor.value, saved) && !same(view.text, saved))) { clearTimeout(waiting); editor.value = saved = view.text }
    if (moved && view.name) ask('picture', { name: view.name })
    if (view.name === null) picture.removeAttribute('src')
    current = view.name
    editor.disabled = current === null
    order.value = view.order
    count.textContent = view.shown ? `${view.at + 1} of ${view.shown}${view.shown < view.all ? ` (${view.all} in all)` : ''} · ${view.counts}` : `none of ${view.all}`
    name.textContent = [view.name, SAID[view.status], view.score === null ? '' : `score ${view.score.toFixed(2)}`].filter(Boolean).join(' · ')
    auto.textContent = view.auto_text && view.auto_text !== view.text ? `the captioner said: ${view.auto_text}` : ''
    prompt.textContent = view.prompt ? `trains as: ${view.prompt}${view.tokens === null ? '' : ` · ${view.tokens} token${view.tokens === 1 ? '' : 's'}${view.tokens > 75 ? ', of which 75 are read' : ''}`}` : ''
    prompt.classList.toggle('amr-long', view.tokens > 75)
    clash.hidden = !view.mine
    yours.textContent = `not written, since it says something else by now or could not be; yours was: ${view.mine} `
    out.textContent = view.status === 'excluded' ? '+ take in again' : '✕ leave out'
    message.textContent = view.message || ''
    if (moved) {
      const y = view.at * ROW
      if (y < list.scrollTop) list.scrollTop = y
      else if (y + ROW > list.scrollTop + list.clientHeight) list.scrollTop = y + ROW - list.clientHeight
    }
    soon()
  }
  function told(content) {
    if (content.tell === 'rows' && content.version === version) { for (const o of content.rows) rows.set(o.n, o); soon() }
    if (content.tell === 'picture' && content.name === current) picture.src = content.uri
  }
  model.on('change:view', update)
  model.on('msg:custom', told)
  const sizes = new ResizeObserver(soon)
  sizes.observe(list)
  const poll = setInterval(() => { if (document.visibilityState === 'visible') ask('poll') }, 2000)
  update()
  return () => { save(); clearInterval(poll); sizes.disconnect(); model.off('change:view', update); model.off('msg:custom', told) }
}

export default { render }
