// The view of a review: it shows what Python says and tells Python what the person does. Texts go in as textContent, never as HTML.

const KEYS = [
  ['j ↓ →', 'next picture'], ['k ↑ ←', 'previous image'], ['a', 'accept and go to the next'], ['x', 'exclude or include again'],
  ['n', 'next image without a caption'], ['e Enter', 'write in the caption'], ['Esc', 'leave the editor'], ['Ctrl Enter', 'in the caption: accept and go to the next'],
  ['Alt ↓ ↑', 'in the caption: next, previous'], ['u', 'undo'], ['r', 'redo'], ['/', 'search'], ['f', 'more filters'], ['w', 'words'], ['b', 'change many captions'],
  ['c', 'other captions'], ['m', 'mark or unmark'], ['p', 'give this caption to the marked ones'], ['?', 'show or hide these keys'],
]
const ROW = 76, SPARE = 4, PAUSE = 400, PATIENCE = 6000  // pixels, rows, milliseconds
const SAID = { auto: '', edited: 'edited', accepted: 'accepted', excluded: 'excluded' }
const CHANGES = [['replace', 'find and replace'], ['prefix', 'put before'], ['suffix', 'put after'], ['drop', 'leave out'], ['drop_repeats', 'leave out repeats'], ['put_token', 'put the token in']]

// captions are kept with single blanks; what differs in blanks alone is the same
const same = (a, b) => a.trim().split(/\s+/).join(' ') === b.trim().split(/\s+/).join(' ')
const many = (n, thing) => `${n} ${thing}${n === 1 ? '' : 's'}`

function render({ model, el }) {
  const root = make('div', 'am amr', el)
  root.tabIndex = 0
  root.dataset.lmSuppressShortcuts = 'true'           // JupyterLab's own shortcuts stay away from what is typed here
  const top = make('div', 'amr-top', root)
  const chips = make('div', 'amr-chips', root)
  const panels = { filters: make('div', 'amr-panel', root), words: make('div', 'amr-panel amr-words', root), change: make('div', 'amr-panel', root) }
  for (const o of Object.values(panels)) o.hidden = true
  const silent = make('div', 'amr-silent', root, 'The kernel does not answer: it is busy or was restarted. Your text stays here until it answers; after a restart, copy it and run the cell again.')
  silent.hidden = true
  const body = make('div', 'amr-body', root)
  const list = make('div', 'amr-list', body)
  const all = make('div', 'amr-all', list)
  const main = make('div', 'amr-main', body)
  let view = {}, rows = new Map(), marked = new Set(), version = -1, current = null, saved = '', waiting, heard = Date.now(), asked = 0, turn = 0, queue = []

  function ask(what, rest = {}) {
    if (heard >= asked) asked = Date.now()
    model.send({ do: what, ...rest })
  }

  // the line at the top: order, status, search
  const order = select(top, 'Order', [['score', 'worst first'], ['name', 'by name'], ['length', 'by length'], ['status', 'by status']], sort)
  const turned = button(top, '↓', 'the other way round', () => sort(order.value, !view.reverse))
  const status = select(top, 'Show', [['', 'all'], ['uncaptioned', 'without a caption'], ['auto', 'not reviewed'], ['edited', 'edited'], ['accepted', 'accepted'], ['excluded', 'excluded']], filter)
  const search = make('input', 'am-input amr-search', top)
  search.type = 'search'
  search.placeholder = 'words in the caption'
  search.setAttribute('aria-label', 'Words in the caption')
  let typing
  const soonFilter = () => { clearTimeout(typing); typing = setTimeout(filter, 250) }
  search.addEventListener('input', soonFilter)
  const tabs = { filters: button(top, 'filters', 'more filters (f)', () => toggle('filters')), words: button(top, 'words', 'which words there are (w)', () => toggle('words')),
    change: button(top, 'change many', 'change many captions at once (b)', () => toggle('change')) }
  const count = make('span', 'amr-count', top)
  button(top, '↶ undo', 'undo (u)', () => { save(); ask('undo') })
  button(top, '↷ redo', 'redo (r)', () => { save(); ask('redo') })
  button(top, '?', 'the keys (?)', help)
  function sort(by, reverse = view.reverse) { save(); ask('sort', { order: by, reverse }) }
  function toggle(name, open = panels[name].hidden) {
    for (const [k, o] of Object.entries(panels)) { o.hidden = !(open && k === name); tabs[k].setAttribute('aria-pressed', !o.hidden) }
    if (!open) return root.focus()
    if (name === 'words') ask('words')
    panels[name].querySelector('input, select')?.focus()
  }

  // more filters, and what of them is in force
  const regex = input(panels.filters, 'the words above are a pattern (regex)', 'checkbox', filter)
  const missing = input(panels.filters, 'lacks this word, e.g. the token', 'text', soonFilter)
  const above = input(panels.filters, 'score above', 'number', soonFilter), below = input(panels.filters, 'score below', 'number', soonFilter)
  const long = input(panels.filters, 'longer than the text encoder reads', 'checkbox', filter)
  const words = new Set()
  function filter() {
    save()
    ask('show', { text: search.value, status: status.value, regex: regex.checked, missing: missing.value, above: above.value, below: below.value, too_long: long.checked, words: [...words] })
    chips.replaceChildren()
    const chip = (text, off) => button(chips, `${text} ×`, 'take this filter away', () => { off(); filter() }).classList.add('amr-chip')
    for (const o of words) chip(o, () => words.delete(o))
    if (regex.checked && search.value) chip(`pattern ${search.value}`, () => { regex.checked = false })
    if (missing.value) chip(`lacks ${missing.value}`, () => { missing.value = '' })
    if (above.value) chip(`score above ${above.value}`, () => { above.value = '' })
    if (below.value) chip(`score below ${below.value}`, () => { below.value = '' })
    if (long.checked) chip('too long', () => { long.checked = false })
    if (chips.children.length) button(chips, 'show all', 'take every filter away', () => {
      for (const o of [search, status, missing, above, below]) o.value = ''
      regex.checked = long.checked = false
      words.clear()
      filter()
    })
  }
  function showWords(content) {
    panels.words.replaceChildren()
    if (!content.words.length) make('span', '', panels.words, 'there are no words in the captions that are shown')
    const all = [...content.words.map(o => ['words', ...o]), ...content.phrases.map(o => ['phrases', ...o])]
    let kind
    for (const [which, word, n] of all) {
      if (which !== kind) make('div', 'amr-kind', panels.words, kind = which)
      const one = button(panels.words, word, `show the captions with it${words.has(word) ? ' no longer only' : ''}`, () => { words.has(word) ? words.delete(word) : words.add(word); filter() })
      one.classList.add('amr-chip')
      one.setAttribute('aria-pressed', words.has(word))
      make('small', '', one, ` ${n}`)
    }
  }

  // many captions at once: first what would change, then the change
  const what = select(panels.change, 'What to do', CHANGES, fields)
  const find = input(panels.change, 'find', 'text', stale), put = input(panels.change, 'put in its place', 'text', stale), text = input(panels.change, 'text', 'text', stale)
  const options = { regex: input(panels.change, 'pattern (regex)', 'checkbox', stale), whole_words: input(panels.change, 'whole words', 'checkbox', stale), ignore_case: input(panels.change, 'any case', 'checkbox', stale) }
  const preview = button(panels.change, 'preview', 'show what would change, and change nothing', () => { save(); ask('preview', wanted()) })
  const apply = button(panels.change, 'change', 'change the captions; undo reverts it', () => { ask('change', wanted()); stale() })
  const shown = make('div', 'amr-preview', panels.change)
  function fields() {
    const replaces = what.value === 'replace'
    for (const o of [find, put, ...Object.values(options)]) o.parentElement.hidden = !replaces
    text.parentElement.hidden = replaces || !['prefix', 'suffix', 'drop'].includes(what.value)
    text.placeholder = what.value === 'drop' ? 'words or phrases, with commas between' : 'text, e.g. a photo of '
    stale()
  }
  function stale() { apply.hidden = true; shown.replaceChildren() }
  function wanted() {
    if (what.value === 'replace') return { edit: { find: find.value, replace: put.value, ...Object.fromEntries(Object.entries(options).map(([k, o]) => [k, o.checked])) } }
    return { edit: { [what.value]: text.parentElement.hidden ? true : text.value } }
  }
  function showPreview(content) {
    stale()
    for (const { name: file, parts } of content.changes) {
      const line = make('div', '', shown)
      make('small', '', line, `${file} `)
      for (const [words, kind] of parts) make({ gone: 'del', come: 'ins', same: 'span' }[kind], '', line, words)
    }
    if (content.count > content.changes.length) make('div', '', shown, `and ${content.count - content.changes.length} more`)
    make('div', '', shown, content.closing)
    apply.hidden = !content.count
    apply.textContent = `change ${many(content.count, 'caption')}`
  }

  // the picture, its caption, and what belongs to them
  const picture = make('img', 'amr-picture', main)
  picture.alt = ''
  const name = make('div', 'amr-name', main)
  const editor = make('textarea', 'am-editor', main)
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
  button(buttons, '✓ accept, next', 'accept and go to the next (a)', accept)
  const out = button(buttons, '✕ leave out', 'exclude from training; the file is kept (x)', exclude)
  button(buttons, 'next without a caption', 'next without a caption (n)', nextBare)
  const give = button(buttons, '', 'give this caption to the marked ones (p)', copy)
  const unmark = button(buttons, 'no marks', 'take all marks away', () => ask('unmark'))
  button(buttons, 'other captions', 'ask the captioner again (c)', others)
  const other = make('div', 'amr-others', main)
  other.hidden = true
  const begin = make('input', 'am-input amr-begin', other)
  begin.placeholder = 'beginning of the caption, or a request; empty: as before'
  begin.setAttribute('aria-label', 'Prompt of the captioner')
  const again = button(other, 'ask again', 'ask the captioner (Enter)', () => {
    save()
    found.replaceChildren()
    make('span', 'amr-auto', found, 'the captioner looks at the picture …')
    ask('candidates', { name: current, prompt: begin.value || null })
  })
  const found = make('div', 'amr-found', other)
  const message = make('div', 'amr-message', root)
  message.setAttribute('role', 'status')
  const keys = make('div', 'amr-keys', root)
  keys.hidden = true
  for (const [key, what] of KEYS) { const row = make('div', '', keys); make('kbd', '', row, key); make('span', '', row, what) }

  // what was typed belongs to the picture that was there when it was typed
  function save() {
    clearTimeout(waiting)
    if (current === null || same(editor.value, saved)) return
    ask('write', { name: current, text: editor.value, seen: saved })
    saved = editor.value
  }
  editor.addEventListener('input', () => { clearTimeout(waiting); waiting = setTimeout(save, PAUSE) })
  editor.addEventListener('blur', save)
  // who presses j and at once x means the next picture, which may not be here yet; who presses a twice has seen only one
  function move(what, rest = {}) {
    if (queue.length) return queue.push(() => move(what, rest))
    save()
    ask(what, { ...rest, turn: ++turn })
  }
  function here(act) { if (view.turn < turn || queue.length) queue.push(act); else { save(); act() } }
  function go(by) { move('go', { by }) }
  function nextBare() { move('next_uncaptioned') }
  function accept() { here(() => ask('accept', { name: current })) }
  function exclude() { here(() => ask('exclude', { name: current, out: view.status !== 'excluded' })) }
  function mark() { here(() => ask('mark', { name: current })) }
  function copy() { here(() => { if (marked.size) ask('copy', { name: current }) }) }
  function help() { keys.hidden = !keys.hidden }
  function others() { other.hidden = !other.hidden; if (!other.hidden) begin.focus(); else root.focus() }
  function showFound(content) {
    if (content.name !== current) return
    found.replaceChildren()
    if (!content.found.length) make('span', 'amr-auto', found, content.why || 'it says nothing else')
    for (const [text, score] of content.found) {
      const one = button(found, text, 'take this caption', () => { editor.value = text; save() })
      if (score !== null) make('small', '', one, ` ${score.toFixed(2)}`)
    }
  }

  const plain = { j: () => go(1), ArrowDown: () => go(1), ArrowRight: () => go(1), k: () => go(-1), ArrowUp: () => go(-1), ArrowLeft: () => go(-1),
    a: accept, x: exclude, n: nextBare, e: () => editor.focus(), Enter: () => editor.focus(), u: () => { save(); ask('undo') }, r: () => { save(); ask('redo') },
    '/': () => search.focus(), f: () => toggle('filters'), w: () => toggle('words'), b: () => toggle('change'), c: others, m: mark, p: copy, '?': help }
  root.addEventListener('keydown', event => {
    event.stopPropagation()                            // nor do the page's
    const { key, target } = event, typed = target.matches('textarea, input:not([type=checkbox])')
    let act
    if (key === 'Escape') act = () => root.focus()
    else if (target === editor && key === 'Enter' && (event.ctrlKey || event.metaKey)) act = accept
    else if (target === editor && event.altKey && (key === 'ArrowDown' || key === 'ArrowUp')) act = () => go(key === 'ArrowDown' ? 1 : -1)
    else if (target === begin && key === 'Enter') act = () => again.click()
    else if (key === 'Enter' && [find, put, text].includes(target)) act = () => preview.click()
    else if (event.repeat && 'axmp'.includes(key) && !typed) act = () => {}              // a key that is held down is no decision
    else if (!typed && target.tagName !== 'SELECT' && !(target.tagName === 'BUTTON' && key === 'Enter') && !event.ctrlKey && !event.metaKey && !event.altKey) act = plain[key]
    if (act) { event.preventDefault(); act() }
  })
  for (const kind of ['keyup', 'keypress']) root.addEventListener(kind, event => event.stopPropagation())
  // what was clicked may be gone by now; the next key must still come here, and not to the notebook, where x cuts a cell
  let inside = false
  root.addEventListener('focusin', () => { inside = true })
  root.addEventListener('focusout', event => { if (event.relatedTarget && !root.contains(event.relatedTarget)) inside = false })
  const elsewhere = event => { if (!root.contains(event.target)) inside = false }
  document.addEventListener('pointerdown', elsewhere, true)
  function refocus() { if (inside && document.activeElement === document.body) root.focus({ preventScroll: true }) }
  root.addEventListener('click', () => setTimeout(refocus))

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
      if (!found || found.version !== version) want.push(n)
      if (!found) continue
      const thumb = make('img', 'amr-thumb', row)
      thumb.alt = ''
      if (found.thumb) thumb.src = found.thumb
      const text = make('div', 'amr-text', row)
      make('div', `amr-line amr-${found.status}`, text, found.text || '(no caption)')
      make('small', 'amr-small', text, [SAID[found.status], found.score === null ? '' : found.score.toFixed(2), found.name].filter(Boolean).join(' · '))
      if (marked.has(found.name)) { row.classList.add('amr-marked'); make('span', 'amr-tick', row, '✔') }
      row.title = 'Ctrl and a click: mark; Shift and a click: mark all up to here'
      row.addEventListener('click', event => {
        if (event.shiftKey) here(() => ask('mark', { name: found.name, upto: current }))
        else if (event.ctrlKey || event.metaKey) ask('mark', { name: found.name })
        else move('go', { to: found.name })
        root.focus()
      })
    }
    if (want.length) ask('rows', { start: want[0], stop: want[want.length - 1] + 1, version: view.version })
  }
  let drawing
  function soon() { if (!drawing) drawing = requestAnimationFrame(() => { drawing = null; draw() }) }
  list.addEventListener('scroll', soon)

  function update() {
    view = model.get('view')
    if (view.version !== version) { version = view.version; for (const n of rows.keys()) if (n >= view.shown) rows.delete(n); if (!panels.words.hidden) ask('words'); stale() }
    for (const row of rows.values()) if (view.touched && row.name === view.touched.name) Object.assign(row, view.touched)
    const moved = view.name !== current
    if (moved || (same(editor.value, saved) && !same(view.text, saved))) { clearTimeout(waiting); editor.value = saved = view.text }
    if (moved && view.name) ask('picture', { name: view.name })
    if (moved) found.replaceChildren()
    if (view.name === null) picture.removeAttribute('src')
    current = view.name
    editor.disabled = current === null
    order.value = view.order
    turned.textContent = view.reverse ? '↑' : '↓'
    count.textContent = view.shown ? `${view.at + 1} of ${view.shown}${view.shown < view.all ? ` (${view.all} in all)` : ''} · ${view.counts}` : `none of ${view.all}`
    name.textContent = [view.name, SAID[view.status], view.score === null ? '' : `score ${view.score.toFixed(2)}`].filter(Boolean).join(' · ')
    const several = view.captions.length ? `trains with one of ${view.captions.length} captions at each step: ${view.captions.join(' | ')}` : ''
    const said = view.auto_text && view.auto_text !== view.text ? `the captioner said: ${view.auto_text}` : ''
    auto.textContent = [said, several].filter(Boolean).join(' · ')
    const tokens = view.tokens === null ? '' : `${many(view.tokens, 'token')}${view.tokens > view.room ? `, of which ${view.room} are read` : ''}`
    prompt.textContent = [view.prompt ? `trains as: ${view.prompt}` : '', tokens].filter(Boolean).join(' · ')
    prompt.classList.toggle('amr-long', view.tokens > view.room)
    clash.hidden = !view.mine
    yours.textContent = `not written, since it says something else by now or could not be; yours was: ${view.mine} `
    out.textContent = view.status === 'excluded' ? '+ take in again' : '✕ leave out'
    message.textContent = view.message || ''
    if (moved) {
      const y = view.at * ROW
      if (y < list.scrollTop) list.scrollTop = y
      else if (y + ROW > list.scrollTop + list.clientHeight) list.scrollTop = y + ROW - list.clientHeight
    }
    alive()
    soon()
    while (queue.length && view.turn >= turn) {
      const [act, ...rest] = queue
      queue = []
      act()
      queue = [...queue, ...rest]
    }
    refocus()
  }
  function showMarks() {
    marked = new Set(model.get('marked'))
    give.hidden = unmark.hidden = !marked.size
    give.textContent = `caption to the ${marked.size} marked`
    preview.textContent = marked.size ? `preview for the ${marked.size} marked` : 'preview'
    stale()
    soon()
    refocus()
  }
  function alive() { heard = Date.now(); silent.hidden = true }
  function told(content) {
    alive()
    if (content.tell === 'rows' && content.version === version) { for (const o of content.rows) rows.set(o.n, { ...o, version }); soon() }
    if (content.tell === 'picture' && content.name === current) picture.src = content.uri
    if (content.tell === 'words') showWords(content)
    if (content.tell === 'preview') showPreview(content)
    if (content.tell === 'candidates') showFound(content)
    refocus()
  }
  model.on('change:view', update)
  model.on('change:marked', showMarks)
  model.on('msg:custom', told)
  const sizes = new ResizeObserver(soon)
  sizes.observe(list)
  const poll = setInterval(() => {
    silent.hidden = !(asked > heard && Date.now() - asked > PATIENCE)
    if (document.visibilityState === 'visible') ask('poll')
  }, 2000)
  turn = model.get('view').turn
  fields()
  showMarks()
  update()
  return () => { save(); clearInterval(poll); document.removeEventListener('pointerdown', elsewhere, true); sizes.disconnect(); model.off('change:view', update); model.off('change:marked', showMarks); model.off('msg:custom', told) }
}

export default { render }
