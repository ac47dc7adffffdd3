// What every widget begins with. Texts go in as textContent, never as HTML.

function make(tag, cls, parent, text) {
  const el = document.createElement(tag)
  if (cls) el.className = cls
  if (text !== undefined) el.textContent = text
  if (parent) parent.append(el)
  return el
}

function button(parent, text, title, act) {
  const el = make('button', 'am-button', parent, text)
  el.type = 'button'
  el.title = title
  el.addEventListener('click', act)
  return el
}

function select(parent, label, options, act) {
  const el = make('select', 'am-select', parent)
  el.setAttribute('aria-label', label)
  for (const [value, text] of options) make('option', '', el, text).value = value
  el.addEventListener('change', () => act(el.value))
  return el
}

function input(parent, label, type, act) {
  const whole = make('label', 'am-label', parent)
  const el = make('input', `am-input am-${type}`, null)
  el.type = type
  if (type === 'checkbox') whole.append(el, label)
  else { el.placeholder = label; el.setAttribute('aria-label', label); whole.append(el) }
  if (type === 'number') el.step = 'any'
  el.addEventListener('input', act)
  return el
}
