// The view of a training run: numbers, curves and pictures that Python reads from the run's folder. Texts go in as textContent, never as HTML.

const SVG = 'http://www.w3.org/2000/svg'
const W = 640, H = 240, LEFT = 52, RIGHT = 22, TOP = 30, BOTTOM = 30

function draw(tag, attributes, parent, text) {
  const el = document.createElementNS(SVG, tag)
  for (const [k, v] of Object.entries(attributes)) el.setAttribute(k, v)
  if (text !== undefined) el.textContent = text
  parent.append(el)
  return el
}

function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`
  return `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`
}

// round numbers within a range, to write at an axis
function ticks(low, high, count) {
  const rough = (high - low || 1) / count, power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map(o => o * power).find(o => (high - low) / o <= count) || 10 * power
  const found = []
  for (let o = Math.ceil(low / step) * step; o <= high + step * 1e-9; o += step) found.push(Number(o.toPrecision(12)))
  return found
}

function render({ model, el }) {
  const root = make('div', 'am amt', el)
  const top = make('div', 'amt-top', root)
  const name = make('b', '', top), state = make('span', 'amt-state', top)
  const stop = button(top, 'stop', 'finish this step, write a checkpoint, and stop; the same call resumes', () => { asked = true; model.send({ do: 'stop' }); update() })
  const bar = make('div', 'am-bar', root), done = make('div', 'am-filled', bar)
  bar.setAttribute('role', 'progressbar')
  const facts = make('div', 'amt-facts', root)
  const body = make('div', 'amt-body', root)
  const chart = draw('svg', { viewBox: `0 0 ${W} ${H}`, class: 'amt-chart', role: 'img', 'aria-label': 'the loss over the steps' }, body)
  const pictures = make('div', 'amt-pictures', body)
  const message = make('div', 'amt-message', root)
  message.setAttribute('role', 'status')
  let asked = false

  function curve(view) {
    chart.replaceChildren()
    const rows = view.losses, held = view.held
    if (!rows.length) return void draw('text', { x: W / 2, y: H / 2, 'text-anchor': 'middle', class: 'amt-label' }, chart, view.state === 'training' ? 'the first loss comes soon …' : 'no loss was logged')
    const values = [...rows.map(o => o[1]), ...held.map(o => o[1])].sort((a, b) => a - b)
    const high = values[Math.floor(.99 * (values.length - 1))] * 1.05, low = Math.min(values[0], ...held.map(o => o[1])) * .95
    const last = Math.max(1, rows[rows.length - 1][0], ...held.map(o => o[0]))
    const x = step => LEFT + step / last * (W - LEFT - RIGHT), y = v => TOP + (high - Math.min(v, high)) / (high - low || 1) * (H - TOP - BOTTOM)
    for (const o of ticks(low, high, 4)) {
      draw('line', { x1: LEFT, x2: W - RIGHT, y1: y(o), y2: y(o), class: 'amt-grid' }, chart)
      draw('text', { x: LEFT - 6, y: y(o) + 4, 'text-anchor': 'end', class: 'amt-label' }, chart, o)
    }
    for (const o of ticks(0, last, 6)) draw('text', { x: x(o), y: H - 12, 'text-anchor': 'middle', class: 'amt-label' }, chart, o)
    const path = (points, cls) => draw('path', { d: points.map(([s, v], n) => `${n ? 'L' : 'M'}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join(''), class: cls }, chart)
    path(rows, 'amt-raw')
    path(rows.map((o, n) => [o[0], view.means[n]]), 'amt-mean')
    if (held.length) {
      path(held, 'amt-held')
      for (const [s, v] of held) draw('circle', { cx: x(s), cy: y(v), r: s === view.best ? 5 : 3, class: s === view.best ? 'amt-best' : 'amt-dot' }, chart)
    }
    let at = LEFT
    for (const [text, cls] of [['loss', 'amt-mean'], ...(held.length ? [['validation loss', 'amt-held'], ...(view.best ? [[`lowest, step ${view.best}`, 'amt-best']] : [])] : [])]) {
      if (cls === 'amt-best') draw('circle', { cx: at + 9, cy: 10, r: 5, class: cls }, chart)
      else draw('line', { x1: at, x2: at + 18, y1: 10, y2: 10, class: cls }, chart)
      draw('text', { x: at + 24, y: 14, class: 'amt-label' }, chart, text)
      at += 40 + text.length * 6.6
    }
  }

  function update() {
    const view = model.get('view')
    name.textContent = view.name
    const percent = Math.min(100, 100 * view.step / (view.of || 1))
    state.textContent = `${view.state} · step ${view.step} of ${view.of}${view.seconds_left === null ? '' : ` · about ${duration(view.seconds_left)} left`}`
    state.className = `amt-state amt-${view.state}`
    done.style.width = `${percent}%`
    bar.setAttribute('aria-valuenow', Math.round(percent))
    stop.hidden = view.state !== 'training' || view.own                  // the kernel that trains hears no button
    stop.disabled = asked
    if (view.state !== 'training') asked = false
    facts.replaceChildren()
    for (const [label, value] of view.facts) { const one = make('span', '', facts); make('small', '', one, label); make('b', '', one, value) }
    curve(view)
    message.textContent = view.message || (asked ? 'stopping after this step; a checkpoint is written …' : '')
  }
  function show() {
    pictures.replaceChildren()
    for (const [label, uri] of model.get('pictures')) {
      const figure = make('figure', '', pictures), img = make('img', '', figure)
      img.src = uri
      img.alt = label
      make('figcaption', '', figure, label)
    }
  }
  model.on('change:view', update)
  model.on('change:pictures', show)
  update()
  show()
  return () => { model.off('change:view', update); model.off('change:pictures', show) }
}

export default { render }
