// The view of a playground: what to draw goes to Python, pictures come back. Texts go in as textContent, never as HTML.

const NUMBERS = [   // field, label, range, what it is
  ['lora_scale', 'LoRA scale', [0, 2, .05], 'LoRA scale: 0 is off, 1 as trained'],
  ['guidance_scale', 'guidance', [1, 15, .5], 'guidance scale; 1 turns guidance off'],
  ['num_inference_steps', 'steps', [1, 100, 1], 'steps from noise to picture'],
]

function render({ model, el }) {
  const root = make('div', 'am amp', el)
  root.tabIndex = 0
  root.dataset.lmSuppressShortcuts = 'true'           // JupyterLab's own shortcuts stay away from what is typed here
  const form = make('div', 'amp-form', root), shown = make('div', 'amp-shown', root)
  const fields = {}

  function labelled(text, title, cls = '') {
    const label = make('label', `amp-label ${cls}`, form)
    make('span', '', label, text)
    label.title = title
    return label
  }
  fields.prompt = make('textarea', 'am-editor', labelled('prompt', 'what to draw', 'amp-wide'))
  fields.prompt.rows = 3
  const trained = select(form, 'prompts that the LoRA was trained with', [], value => { if (value) { fields.prompt.value = value; ask() } trained.value = '' })
  fields.negative_prompt = make('input', 'am-input', labelled('negative prompt', 'what to keep away from', 'amp-wide'))
  const lora = labelled('LoRA', 'which checkpoint draws')
  fields.lora = select(lora, 'LoRA', [], () => ask())
  const seed = labelled('seed', 'another seed gives other noise')
  fields.seed = make('input', 'am-input', seed)
  fields.seed.type = 'number'
  fields.seed.step = 1
  button(seed, 'another', 'generate with other noise', event => { event.preventDefault(); fields.seed.value = Math.floor(Math.random() * 2 ** 32); ask() })
  for (const [name, text, [min, max, step], title] of NUMBERS) {
    const label = labelled(text, title), slider = make('input', 'amp-slider', label)
    const number = fields[name] = make('input', 'am-input', label)
    Object.assign(slider, { type: 'range', min, max, step })
    Object.assign(number, { type: 'number', step: 'any' })
    slider.setAttribute('aria-label', `${text}, slider`)
    slider.addEventListener('input', () => { number.value = slider.value })
    slider.addEventListener('change', () => ask())
    number.addEventListener('input', () => { slider.value = number.value })
    number.follow = () => { slider.value = number.value }
  }
  fields.resolution = make('input', 'am-input', labelled('pixels', 'image size in pixels, a multiple of 8'))
  Object.assign(fields.resolution, { type: 'number', step: 8, min: 16 })

  const row = make('div', 'amp-buttons', form)
  const go = button(row, 'draw', 'generate without and with the LoRA (Ctrl+Enter)', () => ask(true))
  go.classList.add('amp-go')
  const stop = button(row, 'stop', 'break off', () => model.send({ do: 'stop' }))
  const keep = button(row, 'save', 'save the images as PNG files with all settings', () => model.send({ do: 'save', what: 'pair' }))
  const bar = make('div', 'am-bar', form), done = make('div', 'am-filled', bar)
  bar.setAttribute('role', 'progressbar')
  const message = make('div', 'amp-message', form)
  message.setAttribute('role', 'status')
  const pair = make('div', 'amp-pair', shown)

  const sides = make('div', 'amp-sides', shown), side = {}
  make('b', '', sides, 'grid')
  for (const [one, arrow] of [['x', '→'], ['y', '↓']]) {
    const label = make('span', 'amp-side', sides)
    make('span', '', label, arrow)
    const axis = select(label, `the grid's ${one}`, [], () => { values.value = model.get('choices').axes[axis.value] || '' })
    const values = make('input', 'am-input', label)
    values.setAttribute('aria-label', `values of the grid's ${one}`)
    values.title = 'values with commas between them; Enter draws the grid'
    side[one] = { axis, values }
  }
  const act = make('span', 'amp-side', sides)
  function askGrid() {
    model.send({ do: 'grid', drawing: read(), x: side.x.axis.value, y: side.y.axis.value || null, x_values: side.x.values.value, y_values: side.y.values.value })
  }
  button(act, 'draw the grid', 'an image for each pair of values', askGrid)
  const keepGrid = button(act, 'save the grid', 'save the grid as a PNG file with its settings', () => model.send({ do: 'save', what: 'grid' }))
  const sheet = make('img', 'amp-grid', shown)
  sheet.alt = 'an image for each pair of values'

  const read = () => Object.fromEntries(Object.entries(fields).map(([k, o]) => [k, o.value]))
  // a change that is small beside what is drawn already, or a person's wish
  function ask(wished) { if (wished || model.get('pictures').length) model.send({ do: 'draw', drawing: read() }) }

  function options(el, values, texts = values) {
    const before = el.value
    el.replaceChildren()
    values.forEach((o, n) => { make('option', '', el, texts[n]).value = o })
    if (values.includes(before)) el.value = before
  }
  function choose() {
    const choices = model.get('choices'), axes = Object.keys(choices.axes)
    options(fields.lora, choices.loras)
    options(trained, ['', ...choices.prompts], ['trained with …', ...choices.prompts])
    trained.hidden = !choices.prompts.length
    options(side.x.axis, axes)
    options(side.y.axis, ['', ...axes], ['nothing', ...axes])
    for (const [one, axis] of [['x', 'scale'], ['y', 'checkpoint']]) if (!side[one].chosen) {
      Object.assign(side[one], { chosen: true })
      side[one].axis.value = axis
      side[one].values.value = choices.axes[axis]
    }
  }
  function fill() {
    for (const [k, v] of Object.entries(model.get('drawing'))) { fields[k].value = v === null ? '' : v; fields[k].follow?.() }
  }
  function update() {
    const state = model.get('state')
    stop.hidden = !state.busy
    bar.style.visibility = state.busy ? 'visible' : 'hidden'
    done.style.width = `${100 * state.done / (state.total || 1)}%`
    bar.setAttribute('aria-valuenow', Math.round(100 * state.done / (state.total || 1)))
    message.textContent = state.message
    root.setAttribute('aria-busy', state.busy)
  }
  function show() {
    pair.replaceChildren()
    const pictures = model.get('pictures')
    for (const { label, uri } of pictures) {
      const figure = make('figure', '', pair), img = make('img', '', figure)
      img.src = uri
      img.alt = label
      make('figcaption', '', figure, label)
    }
    keep.disabled = !pictures.length
    const uri = model.get('grid')
    sheet.hidden = !uri
    keepGrid.disabled = !uri
    if (uri) sheet.src = uri
  }
  root.addEventListener('keydown', event => {
    event.stopPropagation()                            // nor do the page's shortcuts see what is typed
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey || event.target.matches('input'))) { event.preventDefault(); sides.contains(event.target) ? askGrid() : ask(true) }
    if (event.key === 'Escape' && !stop.hidden) model.send({ do: 'stop' })
  })
  for (const kind of ['keyup', 'keypress']) root.addEventListener(kind, event => event.stopPropagation())
  const listeners = [['choices', choose], ['state', update], ['pictures', show], ['grid', show]]
  for (const [name, act] of listeners) { model.on(`change:${name}`, act); act() }
  fill()                                               // once: what a person types while it draws stays
  return () => { for (const [name, act] of listeners) model.off(`change:${name}`, act) }
}

export default { render }
